"""Class mix, masks of blocks and tokens, and weighted cross-entropy: against plain oracles, by seed, and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stuffinstance as si

IGNORE = 255


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- class mix ---


def two_domains(batch: int = 3, height: int = 12, width: int = 17) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source, target = torch.rand(batch, 3, height, width), -torch.rand(batch, 3, height, width)
    source_labels = torch.randint(0, 7, (batch, height, width))
    source_labels[source_labels == 6] = IGNORE
    return source, source_labels, target, torch.randint(0, 7, (batch, height, width)) + 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_pasted_are_whole_classes_and_all_else_is_the_target(dtype: torch.dtype) -> None:
    source, source_labels, target, target_labels = two_domains()
    mixed = si.class_mix(source, source_labels.to(dtype), target, target_labels.to(dtype))
    assert mixed.labels.dtype == torch.int64
    for b in range(3):
        pasted = set(source_labels[b][mixed.mask[b]].tolist())
        present = set(source_labels[b].flatten().tolist()) - {IGNORE}
        assert pasted <= present
        assert len(pasted) == (len(present) + 1) // 2
        for y in range(source.shape[2]):
            for x in range(source.shape[3]):
                from_source = int(source_labels[b, y, x]) in pasted
                assert bool(mixed.mask[b, y, x]) == from_source
                image, labels = (source, source_labels) if from_source else (target, target_labels)
                assert torch.equal(mixed.images[b, :, y, x], image[b, :, y, x])
                assert mixed.labels[b, y, x] == labels[b, y, x]


def test_every_set_of_classes_is_drawn_equally_often() -> None:
    """Two of four classes: six pairs; 1,200 images of each would be 200 by pair."""
    labels = torch.arange(4).view(1, 1, 4).repeat(1200, 1, 1)
    images = torch.zeros(1200, 1, 1, 4)
    mask = si.class_mix(images, labels, images, labels, generator=seeded()).mask[:, 0].long()
    assert mask.sum(1).eq(2).all()
    counts = torch.bincount((mask * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    assert (counts > 0).sum() == 6
    assert int(counts[counts > 0].min()) > 150
    assert int(counts.max()) < 250


def test_one_class_is_pasted_whole_and_nothing_labeled_pastes_nothing() -> None:
    images = torch.ones(2, 1, 2, 2)
    labels = torch.tensor([[[4, 4], [4, 4]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    mixed = si.class_mix(images, labels, images * 0, torch.full((2, 2, 2), 9))
    assert mixed.labels.flatten(1).tolist() == [[4] * 4, [9] * 4]
    assert mixed.images.flatten(1).tolist() == [[1.0] * 4, [0.0] * 4]


def test_an_image_does_not_depend_on_its_batch() -> None:
    inputs = two_domains()
    mixed = si.class_mix(*inputs, generator=seeded(3))
    first = si.class_mix(*(each[:1] for each in inputs), generator=seeded(3))
    again = si.class_mix(*inputs, generator=seeded(3))
    other = si.class_mix(*inputs, generator=seeded(4))
    assert torch.equal(first.mask, mixed.mask[:1])
    assert torch.equal(again.images, mixed.images)
    assert not torch.equal(other.mask, mixed.mask)
    assert si.class_mix(*(each[:0] for each in inputs)).images.shape == (0, 3, 12, 17)


# --- hidden blocks ---


@pytest.mark.parametrize(("height", "width", "block"), [(8, 8, 4), (9, 13, 4), (5, 3, 8), (1, 7, 3)])
def test_blocks_are_hidden_whole_whatever_the_size(height: int, width: int, block: int) -> None:
    images = torch.rand(4, 3, height, width) + 1
    masked = si.random_block_mask(images, block, 0.5, generator=seeded(1))
    draws = torch.rand(4, -(-height // block), -(-width // block), generator=seeded(1))
    for b in range(4):
        for y in range(height):
            for x in range(width):
                hidden = draws[b, y // block, x // block] < 0.5
                expected = torch.zeros(3) if hidden else images[b, :, y, x]
                assert torch.equal(masked[b, :, y, x], expected)


def test_the_ratio_is_the_hidden_share() -> None:
    images = torch.ones(8, 1, 256, 256)
    assert float(si.random_block_mask(images, 8, generator=seeded()).mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(si.random_block_mask(images, 8, 0.0), images)
    assert not si.random_block_mask(images, 8, 1.0).any()


def test_hidden_pixels_take_the_color_and_pass_no_gradient() -> None:
    images = torch.rand(2, 3, 12, 12, requires_grad=True)
    color = (0.485, 0.456, 0.406)
    masked = si.random_block_mask(images, 4, 0.5, fill=color, generator=seeded(2))
    hidden = si.random_block_mask(torch.ones(2, 3, 12, 12), 4, 0.5, generator=seeded(2)) == 0
    assert torch.equal(masked[hidden], torch.tensor(color).view(1, 3, 1, 1).expand_as(masked)[hidden])
    assert torch.equal(masked[~hidden], images[~hidden])
    masked.sum().backward()
    assert torch.equal(images.grad, (~hidden).float())
    assert torch.equal(
        si.random_block_mask(images, 4, 0.5, fill=0.25, generator=seeded(2))[hidden].unique(), torch.tensor([0.25])
    )


def test_what_is_hidden_cannot_spoil() -> None:
    assert not si.random_block_mask(torch.full((1, 3, 4, 4), float("nan")), 2, 1.0).any()
    assert si.random_block_mask(torch.ones(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert si.random_block_mask(torch.ones(0, 3, 4, 4)).shape == (0, 3, 4, 4)


# --- masked tokens ---


@pytest.mark.parametrize("prefix", [0, 1, 5, 12])
def test_tokens_are_masked_whole_and_prefix_tokens_stay(prefix: int) -> None:
    tokens, mask_token = torch.rand(3, 12, 4), -torch.rand(4)
    masked = si.random_token_mask(tokens, mask_token, 0.5, num_prefix_tokens=prefix, generator=seeded(1))
    draws = torch.rand(3, 12 - prefix, generator=seeded(1))
    for b in range(3):
        for n in range(12):
            hidden = n >= prefix and draws[b, n - prefix] < 0.5
            assert torch.equal(masked[b, n], mask_token if hidden else tokens[b, n])


def test_the_ratio_is_the_masked_share_of_tokens() -> None:
    tokens, mask_token = torch.ones(8, 1025, 1), torch.zeros(1)
    patches = si.random_token_mask(tokens, mask_token, num_prefix_tokens=1, generator=seeded())[:, 1:]
    assert float(patches.mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(si.random_token_mask(tokens, mask_token, 0.0), tokens)
    assert not si.random_token_mask(tokens * torch.nan, mask_token, 1.0).any()


def test_the_gradient_of_masked_tokens_is_that_of_the_mask_token() -> None:
    tokens, mask_token = torch.rand(2, 9, 3, requires_grad=True), torch.rand(3, requires_grad=True)
    masked = si.random_token_mask(tokens, mask_token, 0.5, generator=seeded(2))
    hidden = (masked == mask_token).all(2)
    assert 0 < int(hidden.sum()) < 18
    masked.sum().backward()
    assert torch.equal(tokens.grad, (~hidden).float()[..., None].expand(2, 9, 3))
    assert mask_token.grad.tolist() == [float(hidden.sum())] * 3
    half = si.random_token_mask(tokens.bfloat16(), mask_token)
    assert half.dtype == torch.bfloat16
    assert si.random_token_mask(tokens[:0], mask_token).shape == (0, 9, 3)


# --- confidence and loss ---


def test_confident_share_counts_pixels_by_image() -> None:
    probabilities = torch.softmax(4 * torch.randn(3, 5, 9, 11), 1)
    for threshold in (0.968, 0.5, 0.0, 1.0):
        expected = [
            sum(float(image[:, y, x].max()) >= threshold for y in range(9) for x in range(11)) / 99
            for image in probabilities
        ]
        assert si.confident_fraction(probabilities, threshold).tolist() == pytest.approx(expected)
    whole = (probabilities.amax(1) >= 0.968).float().mean()
    assert 0 < float(whole) < 1
    torch.testing.assert_close(si.confident_fraction(probabilities).mean(), whole)


def test_confident_share_at_its_edges() -> None:
    assert si.confident_fraction(torch.tensor([[[[0.5]], [[0.5]]]]), 0.5).tolist() == [1.0]
    broken = torch.full((1, 2, 1, 4), float("nan"))
    broken[..., 0] = torch.tensor([1.0, 0.0]).view(1, 2, 1)
    assert si.confident_fraction(broken).tolist() == [0.25]
    assert si.confident_fraction(torch.zeros(0, 2, 3, 3)).shape == (0,)
    # bf16 knows 0.96875 and nothing nearer to 0.968; the threshold itself is not rounded to it
    sure = torch.tensor([0.96875, 0.03125], dtype=torch.bfloat16).view(1, 2, 1, 1)
    assert si.confident_fraction(sure, 0.968).tolist() == [1.0]
    assert si.confident_fraction(sure, 0.969).tolist() == [0.0]
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        best = torch.tensor([0.96, 0.9675, 0.968, 0.9688, 0.97]).to(dtype)
        bound = float(torch.tensor(0.968)) if dtype == torch.float32 else 0.968
        found = si.confident_fraction(torch.stack((best, 1 - best))[None, :, None], 0.968)
        assert found.item() == pytest.approx(float((best.double() >= bound).double().mean()))


def loss_case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.randint(0, 4, (2, 3, 5))
    labels[0, 0] = IGNORE
    return torch.randn(2, 4, 3, 5, dtype=dtype), labels, torch.rand(2, 3, 5, dtype=dtype)


def test_weighted_cross_entropy_equals_the_sum_over_pixels() -> None:
    logits, labels, weights = loss_case()
    total = 0.0
    for b in range(2):
        for y in range(3):
            for x in range(5):
                if labels[b, y, x] != IGNORE:
                    total -= float(weights[b, y, x] * logits[b, :, y, x].log_softmax(0)[labels[b, y, x]])
    assert float(si.weighted_cross_entropy(logits, labels, weights)) == pytest.approx(total / 30, rel=1e-12)


def test_weights_of_images_are_those_of_their_pixels_and_do_not_cancel() -> None:
    logits, _, _ = loss_case()
    labels, share = torch.randint(0, 4, (2, 3, 5)), torch.tensor([0.3, 0.7], dtype=torch.float64)
    by_pixel = share[:, None, None].expand(2, 3, 5)
    torch.testing.assert_close(
        si.weighted_cross_entropy(logits, labels, share), si.weighted_cross_entropy(logits, labels, by_pixel)
    )
    plain = F.cross_entropy(logits, labels)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(si.weighted_cross_entropy(logits, labels, ones), plain)
    torch.testing.assert_close(si.weighted_cross_entropy(logits, labels, 0.25 * ones), 0.25 * plain)


def test_weights_get_no_gradient() -> None:
    logits, labels, weights = loss_case()
    weights.requires_grad_()
    si.weighted_cross_entropy(logits.requires_grad_(), labels, weights).backward()
    assert weights.grad is None


# --- compiled, and read nowhere ---


def whole_step(student: nn.Module, teacher: si.MeanTeacher, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    source, labels, target = inputs
    probabilities = teacher(target).softmax(1)
    pseudo, share = probabilities.argmax(1), si.confident_fraction(probabilities, 0.5)
    mixed = si.class_mix(source, labels, target, pseudo)
    weights = torch.where(mixed.mask, 1.0, share[:, None, None])
    masked = student(si.random_block_mask(target, 2))
    return si.weighted_cross_entropy(student(mixed.images), mixed.labels, weights) + si.weighted_cross_entropy(
        masked, pseudo, share
    )


@pytest.mark.usefixtures("compiling")
def test_a_whole_step_compiles_to_one_graph() -> None:
    student = nn.Conv2d(3, 4, 1)
    teacher, inputs = si.MeanTeacher(student), (*two_domains()[:2], torch.rand(3, 3, 12, 17))
    inputs[1].clamp_(max=3)
    torch.manual_seed(5)
    expected = whole_step(student, teacher, inputs)
    torch.manual_seed(5)
    actual = torch.compile(whole_step, fullgraph=True, backend="aot_eager")(student, teacher, inputs)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(loss, student.weight)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients)
