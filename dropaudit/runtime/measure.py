"""The numbers behind the checks, computed where the tensors live: rows of samples in, sums out.

A row holds what was sampled of one call. All rows of a step are measured together, so that a step
costs a few dozen kernels, not a few dozen a site. Nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORWARD = (
    *("elements", "draws", "drops", "mixed", "units"),
    *("kept_in", "kept_out", "kept", "ratio", "ratio_squares"),
    *("total_in", "total_out", "in_squares", "products", "out_squares", "changed"),
)
"""What `forward_sums` returns for a row, in order."""

BACKWARD = (
    *("elements", "broken", "revived", "lost", "dropped"),
    *("worst", "gradient_in", "gradient_out"),
)
"""What `backward_sums` returns for a row, in order."""


def wide(rows: Tensor) -> Tensor:
    """`rows` in the precision that is measured in: at least float32, which holds every product of
    half-precision numbers exactly."""
    return rows if rows.dtype is torch.float64 else rows.to(torch.float32)


def _double(sums: Tensor) -> Tensor:
    """Sums in float64 (float32 where the device has none): counts must stay exact."""
    return sums.to(torch.float32 if sums.device.type == "mps" else torch.float64)


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference of `x * dx` and `y * dy` that rounding explains, in units of their sum.

    Each side is one multiplication by the scale, rounded to `dtype`: half a unit in the last place
    each. Four units leave room for scales that were computed in another order.

    >>> tolerance(torch.float32) < 1e-6
    True
    """
    return 4 * torch.finfo(dtype).eps


def forward_sums(x: Tensor, y: Tensor, slack: Tensor | float = 0.0) -> Tensor:
    """Sums over each row of samples of one call, every element being its own draw.

    Args:
        x, y: input and output, shape (calls, elements), any floating dtype. Padding is zero.
        slack: below which `|y|` counts as zero; shape (calls, 1) or a number.

    Returns:
        Shape (calls, len(FORWARD)), in the order of `FORWARD`.

    >>> x = torch.tensor([[1.0, 2.0, 0.0, 4.0]])
    >>> y = torch.tensor([[2.0, 0.0, 0.0, 8.0]])
    >>> dict(zip(FORWARD, forward_sums(x, y)[0].tolist()))["drops"]
    1.0
    """
    x, y, told = _informative(x, y, slack)
    kept = _beyond(y, slack).to(y.dtype)
    size, out = x.abs(), y * x.sgn()
    draws = told.sum(1)
    nothing = torch.zeros_like(draws)
    return _stacked(
        *(draws, draws, draws - kept.sum(1), nothing, nothing),
        *_kept_sums(size, out, kept),
        *_moments(size, out),
        (x - y).abs().sum(1),
    )


def unit_sums(
    x: Tensor, y: Tensor, unit: Tensor, count: int, slack: Tensor | float = 0.0
) -> Tensor:
    """As `forward_sums` for rows in which elements share draws.

    Args:
        x, y: shape (calls, elements).
        unit: which draw each element belongs to, from 0 to `count - 1`; shape (elements,).
        count: how many draws a row holds.

    Returns:
        Shape (calls, len(FORWARD)). A unit in which some elements are kept and others dropped
        counts as kept, and as `mixed`.
    """
    x, y, told = _informative(x, y, slack)
    kept = _beyond(y, slack).to(y.dtype)
    size, out = x.abs(), y * x.sgn()
    seen, left = _gather(told, unit, count), _gather(kept, unit, count)
    return _stacked(
        told.sum(1),
        (seen > 0).sum(1),
        ((seen > 0) & (left == 0)).sum(1),
        ((left > 0) & (left < seen)).sum(1),
        (seen > 1).sum(1),
        *_kept_sums(size, out, kept),
        *_moments(_gather(size, unit, count), _gather(out, unit, count)),
        (x - y).abs().sum(1),
    )


def verdicts(x: Tensor, y: Tensor, slack: Tensor | float = 0.0) -> Tensor:
    """The mask as far as it shows: 1 kept, -1 dropped, 0 hidden by a zero; shape as `x`, int8."""
    _, y, told = _informative(x, y, slack)
    return ((_beyond(y, slack).to(y.dtype) * 2 - 1) * told).to(torch.int8)


def unit_verdicts(verdict: Tensor, unit: Tensor, count: int) -> Tensor:
    """`verdicts` by draw: kept if any of its elements is; shape (calls, count), int8."""
    kept = _gather((verdict > 0).to(torch.int32), unit, count)
    seen = _gather((verdict != 0).to(torch.int32), unit, count)
    return torch.where(seen != 0, torch.where(kept != 0, 1, -1), 0).to(torch.int8)


def shown(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mask of a whole call, kept until its backward pass: two bytes an element.

    Returns:
        Which elements were kept, and which tell something (both bool, in the shape of `x`); how
        many do, and how many of those were dropped, shape (2,).
    """
    kept, telling = y.bool(), x.bool()  # ten times as fast as to compare with zero
    told = telling.count_nonzero()
    return kept, telling, torch.stack([told, told - kept.count_nonzero()])


def disagreements(kept: Tensor, telling: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """How the backward mask of a whole call differs from the forward mask.

    Returns:
        Shape (3,): elements compared, dropped elements whose gradient flowed, kept elements whose
        gradient did not. All zero where the incoming gradient is not finite.

    >>> kept, telling, _ = shown(torch.ones(2), torch.tensor([2.0, 0.0]))
    >>> disagreements(kept, telling, torch.tensor([2.0, 2.0]), torch.ones(2)).tolist()
    [2, 1, 0]
    """
    finite = torch.linalg.vector_norm(
        dy, dtype=torch.promote_types(dy.dtype, torch.float32)
    ).isfinite()
    # Eight bools at a time: on a CPU, logic on bytes would take longer than all else.
    ours, told, theirs, seen = map(_packed, (kept, telling, dx.bool(), dy.bool()))
    told = told & seen
    wrong = (theirs ^ ours) & told
    many = (told, wrong & theirs, wrong & ours)
    counts: Tensor = torch.stack([_unpacked(each).count_nonzero() for each in many]) * finite
    return counts


def _packed(flags: Tensor) -> Tensor:
    flags = flags.reshape(-1)
    return flags if flags.numel() % 8 else flags.view(torch.int64)


def _unpacked(flags: Tensor) -> Tensor:
    return flags.view(torch.bool)


def varying(x: Tensor, y: Tensor) -> Tensor:
    """Along which dimensions the decisions of one call differ.

    Args:
        x, y: input and output of the call, whole, of one shape.

    Returns:
        Shape (dimensions,), bool: True where `y / x` differs along some line of the dimension, by
        more than half precision rounds.

    >>> x = torch.ones(2, 3)
    >>> varying(x, torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).tolist()
    [True, False]
    """
    informative = x.isfinite() & y.isfinite() & (x != 0)
    ratio = wide(y) / wide(x)
    high = torch.where(informative, ratio, -torch.inf)
    low = torch.where(informative, ratio, torch.inf)
    apart = 0.02 * torch.where(informative, ratio.abs(), 0).amax()
    return torch.stack([(high.amax(dim) - low.amin(dim) > apart).any() for dim in range(x.dim())])


def backward_sums(
    x: Tensor,
    y: Tensor,
    dx: Tensor,
    dy: Tensor,
    bound: float,
    tiny: float,
    slack: Tensor | float = 0.0,
) -> Tensor:
    """How far `x * dx == y * dy` holds in each row.

    A site that is linear in its input for fixed random numbers, elementwise, obeys it: with
    `y = s m x` the chain rule gives `dx = s m dy`, whatever the mask and the scale are.

    Args:
        x, y, dx, dy: input, output, outgoing and incoming gradient; shape (calls, elements).
        bound: relative difference to allow, as `tolerance` gives it.
        tiny: absolute rounding of one number, the smallest subnormal of the dtype.
        slack: absolute error of `y`; shape (calls, 1) or a number.

    Returns:
        Shape (calls, len(BACKWARD)), in the order of `BACKWARD`.

    >>> x, dy = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    >>> y, dx = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> sums = backward_sums(x, y, dx, dy, 1e-6, 0.0)
    >>> dict(zip(BACKWARD, sums[0].tolist()))["revived"]
    1.0
    """
    x, y, dx, dy = wide(x), wide(y), wide(dx), wide(dy)
    left, right = x * dx, y * dy
    size = dy.abs()
    # Products near the least number lose their digits: weights that a softmax left at 1e-40.
    finfo = torch.finfo(left.dtype)
    told = x.abs() * size >= finfo.tiny / finfo.eps
    informative = (left + right).isfinite() & told
    apart = (left - right).abs()
    total = left.abs() + right.abs()
    broken = informative & (apart > bound * total + 2 * tiny * (x.abs() + size) + slack * size)
    kept, flowed = y.bool(), dx.bool()
    # From here on as numbers: sums over flags, and choices by them, take several times as long.
    one, wrong = informative.to(x.dtype), broken.to(x.dtype)
    kept, flowed = kept.to(x.dtype), flowed.to(x.dtype)
    both = one * kept * flowed
    return _stacked(
        one.sum(1),
        wrong.sum(1),
        (wrong * (1 - kept) * flowed).sum(1),
        (wrong * kept * (1 - flowed)).sum(1),
        (one * (1 - kept)).sum(1),
        (_finite(apart / total) * wrong).amax(1),
        (_finite(size) * both).sum(1),
        (_finite(dx * dy.sgn()) * both).sum(1),
    )


def product_gap(left: Tensor, right: Tensor) -> Tensor:
    """Normalized difference of inner products, `|a - b| / norm`, from their summed terms.

    Args:
        left, right: terms of the two products, shape (products, terms); the products are the sums.

    Returns:
        Shape (products,): `|sum(left) - sum(right)|` over the root of the mean of the two sums of
        squares: what a random sign of each term would give.
    """
    left, right = wide(left), wide(right)
    norm = ((left.square().sum(1) + right.square().sum(1)) / 2).sqrt()
    gap = (left.sum(1) - right.sum(1)).abs()
    return torch.where(norm > 0, gap / norm, gap)


def _stacked(*sums: Tensor) -> Tensor:
    return torch.stack([_double(each) for each in sums], dim=1)


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0, 0.0, 0.0)


def _informative(x: Tensor, y: Tensor, slack: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Input and output, wide, with zeros where they tell nothing, and ones where they do.

    An input within the error of the output (`slack`) is as good as zero. One that is so large that
    it overflows where it is kept would be seen only where it is dropped.
    """
    most = min(torch.finfo(x.dtype).max / 16, torch.finfo(torch.float32).max ** 0.5 / 65536)
    informative = (x.abs() <= most) & y.isfinite() & _beyond(x, 4 * slack)
    x, y = wide(x), wide(y)
    told = informative.to(x.dtype)
    return _finite(x) * told, _finite(y) * told, told


def _beyond(values: Tensor, slack: Tensor | float) -> Tensor:
    """Where values are not zero, or larger than an error."""
    return values.abs() > slack if isinstance(slack, Tensor) else values.bool()


def _gather(values: Tensor, unit: Tensor, count: int) -> Tensor:
    return values.new_zeros(values.shape[0], count).index_add_(1, unit, values)


def _kept_sums(size: Tensor, out: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    ratio = _finite(out / size) * kept
    return (
        (size * kept).sum(1),
        (out * kept).sum(1),
        kept.sum(1),
        ratio.sum(1),
        ratio.square().sum(1),
    )


def _moments(size: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    return (
        size.sum(1),
        out.sum(1),
        size.square().sum(1),
        (size * out).sum(1),
        out.square().sum(1),
    )
