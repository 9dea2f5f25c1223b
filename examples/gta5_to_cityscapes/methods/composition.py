"""A recipe's terms, in the order in which they speak."""

from __future__ import annotations

import torch

from ..models import SegmentationNetwork
from ..recipes import Recipe
from .category_anchors import CategoryAnchoring
from .entropy import EntropyMinimization, MaximumSquares
from .fine_grained_adversarial import FineGrainedAlignment
from .matching import StuffInstanceAlignment
from .method import Method
from .output_adversarial import OutputAlignment
from .segmentation import AuxiliarySegmentation, LabeledSegmentation, PseudoLabelSegmentation
from .teacher import ClassMixingTerm, MaskedConsistencyTerm, TargetTeacher


def compose_methods(recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> list[Method]:
    """The terms that a recipe asks for; ``network`` as training starts with it."""
    space, ignored = recipe.label_space, recipe.label_space.ignore_index
    two_levels = recipe.adversarial is not None and recipe.adversarial.levels == 2
    methods: list[Method] = []
    if recipe.teacher:
        methods.append(TargetTeacher(recipe.teacher, network))
    methods.append(LabeledSegmentation(ignored, recipe.fine_grained.temperature if recipe.fine_grained else 1.0))
    if recipe.adversarial and two_levels:
        methods.append(AuxiliarySegmentation(recipe.adversarial.auxiliary_segmentation, ignored))
    if recipe.pseudo_labels:
        methods.append(PseudoLabelSegmentation(recipe.pseudo_labels, ignored))
    if recipe.matching:
        pseudo = recipe.pseudo_labels is not None
        methods.append(StuffInstanceAlignment(recipe.matching, space, network, device, pseudo_labels=pseudo))
    if recipe.anchors:
        methods.append(CategoryAnchoring(recipe.anchors, space, network, device, recipe.evaluation.batch))
    if recipe.adversarial:
        levels = (False, True) if two_levels else (False,)
        methods += [OutputAlignment(recipe.adversarial, space.num_classes, device, auxiliary=level) for level in levels]
    if recipe.fine_grained:
        methods.append(FineGrainedAlignment(recipe.fine_grained, network.feature_dim, space.num_classes, device))
    if recipe.entropy:
        methods.append(EntropyMinimization(recipe.entropy))
    if recipe.max_square:
        methods.append(MaximumSquares(recipe.max_square))
    if recipe.class_mixing:
        methods.append(ClassMixingTerm(recipe.class_mixing, network, ignored))
    if recipe.masked_consistency:
        methods.append(MaskedConsistencyTerm(recipe.masked_consistency, network, ignored))
    return methods
