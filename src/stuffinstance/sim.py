"""Stuff and instance matching (SIM) as one module: banks and losses behind two calls."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stuffinstance._checks import (
    check_choice,
    check_class_ids,
    check_feature_size,
    check_finite,
    check_has_pixels,
    check_label_map,
    check_maps,
    check_on_device,
    check_same_batch,
    checked_flag,
    checked_positive,
    describe,
    may_read,
)
from stuffinstance._numerics import predicted_classes
from stuffinstance._warnings import TRAIN_FEATURES, warn_of_other_proportions, warn_without_gradient
from stuffinstance.banks import Classifier, InstanceBank, StuffBank
from stuffinstance.distributed import Sync
from stuffinstance.label_maps import _correct_labels, _merge_pseudo_labels
from stuffinstance.label_space import LabelSpace
from stuffinstance.losses import InstanceMatchingLoss, StuffMatchingLoss
from stuffinstance.losses.distances import Between, DistanceName
from stuffinstance.pooling.region_mean import _region_mean
from stuffinstance.regions.region_table import _stuff_and_instance_regions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_CALLS_BEFORE_WARNING = 100


class MatchingLosses(NamedTuple):
    """Stuff and instance matching loss, two scalars before any weight.

    SIM weighs both by 0.01; the reference implementation by 0.001 in the second stage.
    """

    stuff: Tensor
    instance: Tensor


@dataclass(frozen=True)
class Preset:
    """Settings in which the paper and the reference implementation differ."""

    distance: DistanceName
    require_full_bank: bool


PRESETS = {
    "code": Preset(distance="l1_mean", require_full_bank=True),
    "paper": Preset(distance="l1_squared", require_full_bank=False),
}


class StuffInstanceMatching(nn.Module):
    """Stuff and instance matching (SIM, CVPR 2020, https://arxiv.org/abs/2003.08040), any backbone, one GPU or many.

    Call :meth:`update` with the source batch, then the module with the target batch of the same step: the bank already
    holds this step's rows, as in the reference implementation. Add both losses to your own with weight 0.01. With
    ``preset="code"`` a loss is exactly 0 until the bank of a class has been filled once. Sizes of source, target,
    features and labels may all differ.

    Args:
        space: Which class ids are stuff and which are things; at least one class should be either.
        feature_dim: D, channels of the feature map.
        preset: ``"code"``, what produced the published numbers: mean absolute difference over channels, and a class is
            matched only once more rows were written than its bank holds. ``"paper"``, the equations as printed: squared
            L1 distance, matched from the first row on.
        distance: As for :class:`StuffMatchingLoss`. None: by preset.
        require_full_bank: Match a class only after more rows were written than its bank holds. None: by preset.
        capacity: w, rows per stuff class; an instance bank holds ``capacity * max_instances``.
        max_instances: z, regions per class and image.
        classifier: Agreement filter: rows (N, D) to logits (N, K), usually :func:`head_classifier` of the segmentation
            head. A mean feature of a source region, or of a target stuff class, is then ignored where this classifier
            gives it another class (the reference implementation; target things are not filtered). It stays the
            caller's: its parameters are not part of this module. A ``deepcopy`` of this module alone copies it too;
            copy the network and this module together to keep the two joined.
        sync: ``"auto"`` shares bank rows across the ranks of a running process group, ``"off"`` does not.
        group: The process group whose ranks share; None for all ranks.
        validate_args: Also check what must be read from the device: class ids and finite features. On CPU tensors ids
            are always checked.

    Attributes:
        stuff_bank: The :class:`StuffBank`. All state is in the buffers of the two banks. Both know the names of
            ``space``: ``sim.instance_bank.rows("car")``.
        instance_bank: The :class:`InstanceBank`.
        stuff_loss: The :class:`StuffMatchingLoss` on the stuff bank.
        instance_loss: The :class:`InstanceMatchingLoss` on the instance bank.

    The banks are equal on all ranks and keep their dtypes. They cannot be averaged as weights are: pass
    ``use_buffers=False`` to ``AveragedModel`` or ``EMAWeightAveraging``, which then copy buffers. ``load_state_dict``
    puts rows by class id, and raises, with both banks unchanged, where classes, their split or a size differ.

    The losses can be differentiated by ``torch.func`` (``grad``, ``vmap`` of it for gradients per image, ``jvp``,
    ``hessian``) and run on fake tensors; what torch cannot do is compile such a transform: compile the call itself.

    Raises:
        ValueError: If ``preset`` is unknown or a size is below 1.
        TypeError: If ``space`` is not a :class:`LabelSpace` or ``classifier`` cannot be called.

    Warns:
        UserWarning: If ``space`` has neither stuff nor things, so that nothing can be matched.

    Example:
        >>> space = LabelSpace(names=("road", "car"), stuff=(0,), things=(1,))
        >>> sim = StuffInstanceMatching(space, feature_dim=4, preset="paper")
        >>> source, target = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 5, 7, requires_grad=True)
        >>> labels, logits = torch.zeros(2, 48, 64, dtype=torch.long), torch.randn(2, 2, 5, 7)
        >>> sim.update(source, labels, source_logits=torch.randn(2, 2, 6, 8))
        >>> losses = sim(target, logits)
        >>> (losses.stuff + losses.instance).backward()
    """

    def __init__(
        self,
        space: LabelSpace,
        feature_dim: int,
        *,
        preset: Literal["code", "paper"] = "code",
        capacity: int = 50,
        max_instances: int = 10,
        classifier: Classifier | None = None,
        sync: Sync = "auto",
        group: ProcessGroup | None = None,
        validate_args: bool = False,
        distance: DistanceName | Between | None = None,
        require_full_bank: bool | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(space, LabelSpace):
            raise TypeError(f"space must be a LabelSpace such as stuffinstance.CITYSCAPES, got {describe(space)}.")
        check_choice("preset", preset, PRESETS)
        capacity = checked_positive("capacity", capacity)
        max_instances = checked_positive("max_instances", max_instances)
        if not space.stuff and not space.things:
            warnings.warn(
                f"space has neither stuff nor things, so no class of {', '.join(space.names[:5])}"
                f"{', ...' if space.num_classes > 5 else ''} is matched and both losses are always 0: pass the ids or "
                f"names to match, such as LabelSpace(names, stuff=({space.names[0]!r},), things=(...)).",
                stacklevel=2,
            )
        self.space = space
        self.feature_dim = checked_positive("feature_dim", feature_dim)
        self.preset = preset
        self.validate_args = checked_flag("validate_args", validate_args)
        self._calls = 0
        distance = PRESETS[preset].distance if distance is None else distance
        full = PRESETS[preset].require_full_bank if require_full_bank is None else require_full_bank
        stuff_names, thing_names = ([space.names[c] for c in classes] for classes in (space.stuff, space.things))
        self.stuff_bank: StuffBank = StuffBank(
            space.stuff, self.feature_dim, capacity, sync=sync, group=group, names=stuff_names
        )
        self.instance_bank: InstanceBank = InstanceBank(
            space.things,
            self.feature_dim,
            capacity * max_instances,
            max_instances,
            sync=sync,
            group=group,
            names=thing_names,
        )
        self.stuff_loss: StuffMatchingLoss = StuffMatchingLoss(
            self.stuff_bank, distance, require_full_bank=full, classifier=classifier
        )
        self.instance_loss: InstanceMatchingLoss = InstanceMatchingLoss(
            self.instance_bank, distance, require_full_bank=full
        )

    @property
    def classifier(self) -> Classifier | None:
        """Rows to logits for the agreement filter, or None."""
        return self.stuff_loss.classifier

    def reset(self) -> None:
        """Back to the state after construction: empty banks."""
        self._calls = 0
        for bank in (self.stuff_bank, self.instance_bank):
            bank.reset()

    reset_parameters = reset  # the name that deferred initialization calls

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool, *found: list[str]
    ) -> None:
        """Where the state of one bank cannot be loaded, keep both as they are."""
        banks = {f"{prefix}stuff_bank.": self.stuff_bank, f"{prefix}instance_bank.": self.instance_bank}
        faults = [fault for name, bank in banks.items() for fault in bank._faults(state_dict, name)]
        if faults or (strict and any(bank._lacks(state_dict, name) for name, bank in banks.items())):
            *_, error_msgs = found
            error_msgs += faults
            for name, bank in banks.items():
                bank._keep_as_it_is(state_dict, name)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *found)

    @torch.no_grad()
    def update(self, source_features: Tensor, source_labels: Tensor, source_logits: Tensor) -> None:
        """Update the banks with the correctly predicted source regions (Eq. 4, 5, Algorithm 1), without gradient.

        Either both banks change or, on an error, none. Rows that are not finite are ignored.

        Args:
            source_features: (B, D, h, w).
            source_labels: Ground truth (B, H, W), any integer dtype; resized nearest to (h, w).
            source_logits: (B, K, h, w), at the features' resolution.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.
        """
        check_label_map("source_labels", source_labels)
        self._check("source", source_features, source_logits, source_labels, "source_labels")
        correct = _correct_labels(source_labels, source_logits, self.space.ignore_index)
        stuff, instance = self._pool(source_features, correct)
        # Both lists are complete before either bank is written.
        classifier = self.stuff_loss._classifier[0]
        stuff_rows = self.stuff_bank._candidates(*stuff, classifier)
        instance_rows = self.instance_bank._candidates(*instance, classifier)
        self.stuff_bank._write(stuff_rows)
        self.instance_bank._write(instance_rows)

    def forward(
        self, target_features: Tensor, target_logits: Tensor, pseudo_labels: Tensor | None = None
    ) -> MatchingLosses:
        """Match the target's predicted regions against the banks (Eq. 6 and 8; with pseudo-labels Eq. 11).

        Args:
            target_features: (B, D, h, w); the losses are differentiable in them.
            target_logits: (B, K, h, w), at the features' resolution; only their argmax is used.
            pseudo_labels: (B, H, W), any integer dtype, ``space.ignore_index`` for pixels without one; resized nearest.
                A pseudo-label replaces the prediction (Eq. 11; the reference implementation omits this).

        Returns:
            :class:`MatchingLosses`, each the mean over images of the single-image loss; exactly 0, still attached to
            ``target_features``, where nothing can be matched.

        Raises:
            ValueError: If ranks, dtypes, sizes, devices or class ids cannot be right.

        Warns:
            UserWarning: At the hundredth call, if no row was ever written to the banks (checked as class ids are).
            UserWarning: Once, if ``target_features`` carry no gradient while gradient mode is on and this module is in
                training mode: matching then trains nothing.
        """
        self._notice_empty_banks()
        if pseudo_labels is not None:
            check_label_map("pseudo_labels", pseudo_labels)
        self._check("target", target_features, target_logits, pseudo_labels, "pseudo_labels")
        warn_without_gradient("matching loss", "target_features", target_features, TRAIN_FEATURES, self, stacklevel=5)
        labels = predicted_classes(target_logits, self.space.ignore_index)
        if pseudo_labels is not None:
            labels = _merge_pseudo_labels(labels, pseudo_labels, self.space.ignore_index)
        stuff, instance = self._pool(target_features, labels)
        return MatchingLosses(self.stuff_loss._of_rows(*stuff), self.instance_loss._of_rows(*instance))

    if TYPE_CHECKING:
        # To type checkers nn.Module itself returns Any.
        def __call__(
            self, target_features: Tensor, target_logits: Tensor, pseudo_labels: Tensor | None = None
        ) -> MatchingLosses: ...

    def _notice_empty_banks(self) -> None:
        """Warn once that ``update`` was never called: losses of 0 look like those of banks that are not full yet."""
        if torch.compiler.is_compiling():
            return
        self._calls += 1
        if self._calls == _CALLS_BEFORE_WARNING and may_read(self.stuff_bank.written, self.validate_args):
            if bool(self.stuff_bank.written.any()) or bool(self.instance_bank.written.any()):
                return
            warnings.warn(
                f"{self._calls} calls have found banks to which no row was ever written, so both losses were 0: call "
                "update(source_features, source_labels, source_logits) in each step, after the source's forward pass. "
                "If you do, the network has not predicted a single source region correctly yet.",
                stacklevel=3,
            )

    def _pool(self, features: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Mean features (B, C * Z, D) of stuff and of things, and which exist (B, C, Z); reads the features once."""
        things = self.instance_bank
        most = things._checked_most(labels)
        region_map, stuff_exists, exists = _stuff_and_instance_regions(
            labels, self.stuff_bank.classes, things.classes, most, things.connectivity
        )
        first = stuff_exists.shape[1]
        rows = _region_mean(features, region_map, first + exists.shape[1] * most)
        return (rows[:, :first], stuff_exists), (rows[:, first:], exists)

    def _check(self, domain: str, features: Tensor, logits: Tensor, labels: Tensor | None, labels_name: str) -> None:
        features_name, logits_name, classes = f"{domain}_features", f"{domain}_logits", len(self.space.names)
        check_maps(features_name, features, channels=self.feature_dim)
        check_maps(logits_name, logits, channels=classes, channel_name="K")
        check_same_batch(logits_name, logits, features_name, features)
        check_feature_size(logits_name, logits, features)
        if labels is not None:
            check_has_pixels(labels_name, labels)
            check_same_batch(labels_name, labels, features_name, features)
            warn_of_other_proportions(labels_name, labels, features_name, features)
            check_class_ids(labels_name, labels, classes, self.space.ignore_index, self.validate_args)
        check_on_device(features_name, features, "banks", self.stuff_bank.features)
        if self.validate_args:
            check_finite(features_name, features)
            check_finite(logits_name, logits)
