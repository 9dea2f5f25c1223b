"""A recipe's terms, in the order in which they speak."""

from __future__ import annotations

import torch

from ...networks import SegmentationNetwork
from ...recipes import Recipe
from .anchors import CategoryAnchoring
from .entropy import EntropyMinimisation, MaximumSquares
from .fine_grained import FineGrainedAlignment
from .matching import StuffInstanceAlignment
from .output_alignment import OutputAlignment
from .segmentation import AuxiliarySegmentation, LabelledSegmentation, PseudoLabelSegmentation
from .teacher import ClassMixingTerm, MaskedConsistencyTerm, TargetTeacher
from .term import Term


def compose_terms(recipe: Recipe, network: SegmentationNetwork, device: torch.device) -> list[Term]:
    """The terms that a recipe asks for; ``network`` as training starts with it."""
    space, ignored = recipe.label_space, recipe.label_space.ignore_index
    two_levels = recipe.adversarial is not None and recipe.adversarial.levels == 2
    terms: list[Term] = []
    if recipe.teacher:
        terms.append(TargetTeacher(recipe.teacher, network))
    terms.append(LabelledSegmentation(ignored, recipe.fine_grained.temperature if recipe.fine_grained else 1.0))
    if recipe.adversarial and two_levels:
        terms.append(AuxiliarySegmentation(recipe.adversarial.auxiliary_segmentation, ignored))
    if recipe.pseudo_labels:
        terms.append(PseudoLabelSegmentation(recipe.pseudo_labels, ignored))
    if recipe.matching:
        pseudo = recipe.pseudo_labels is not None
        terms.append(StuffInstanceAlignment(recipe.matching, space, network, device, pseudo_labels=pseudo))
    if recipe.anchors:
        terms.append(CategoryAnchoring(recipe.anchors, space, network, device, recipe.evaluation.batch))
    if recipe.adversarial:
        levels = (False, True) if two_levels else (False,)
        terms += [OutputAlignment(recipe.adversarial, space.num_classes, device, auxiliary=level) for level in levels]
    if recipe.fine_grained:
        terms.append(FineGrainedAlignment(recipe.fine_grained, network.feature_dim, space.num_classes, device))
    if recipe.entropy:
        terms.append(EntropyMinimisation(recipe.entropy))
    if recipe.max_square:
        terms.append(MaximumSquares(recipe.max_square))
    if recipe.class_mixing:
        terms.append(ClassMixingTerm(recipe.class_mixing, network, ignored))
    if recipe.masked_consistency:
        terms.append(MaskedConsistencyTerm(recipe.masked_consistency, network, ignored))
    return terms
