"""One subject with tensors of one dtype: called until everything that is judged was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dropaudit.findings import Finding
from dropaudit.runtime import directions
from dropaudit.runtime.evaldraws import finding
from dropaudit.runtime.lens import Affine, Direct, Sample, eval_output, lens_of, output
from dropaudit.runtime.measure import tolerance, verdicts
from dropaudit.runtime.preservation import random_states
from dropaudit.runtime.subject import Subject
from dropaudit.runtime.tally import Tally
from dropaudit.runtime.trace import Site
from dropaudit.runtime.trials import DRAWS, draws_of, layouts, power_shape, values
from dropaudit.runtime.within import Within

_MOST_CALLS = 400
_PROBES = 64
_OWN_RATES = ("alpha", "noise", "block")
"""Kinds for which p = 0 or p = 1 is not simply all or nothing."""


class Examination:
    """The measurements on one subject, for tensors of one dtype.

    Args:
        subject: what is called.
        tensors: what one call takes.
        own: whether the tensors were made for the check: others may be made too.
        lead: whether this is the dtype that is measured with the full number of draws.
    """

    def __init__(
        self, subject: Subject, tensors: Sequence[Tensor], *, own: bool, lead: bool
    ) -> None:
        self.subject, self.tensors, self._own = subject, list(tensors), own
        self.wanted = DRAWS if lead else DRAWS // 8
        self.tally = Tally(subject.p)
        self._varying: tuple[int, ...] | None = None
        self._probed: float | None = None
        self.every_dtype = True
        """Whether other dtypes show something of their own: not where differences are taken."""
        self.unseen = ""
        """Why the backward pass could not be compared, if it could not."""
        self.extra: list[Finding] = []
        """What no record of a trace holds: findings about p = 0 and p = 1."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is examined."""
        if self.tensors or self.subject.module is None:
            return self.tensors[0].dtype
        return next(self.subject.module.parameters()).dtype

    def site(self) -> Site:
        """Everything measured, as a record."""
        subject, dtype = self.subject, self.dtype
        self._look_within()
        self.tally.p = subject.p
        kind = subject.kind
        lens = lens_of(subject, self.tensors, kind) if self.tensors else None
        if lens is not None:
            self._varying = self._decisions(lens)
        units = (0,) if kind in ("path", "block") else self._varying
        if lens is None:
            kind = directions.kind_of(subject, self.tensors, kind)
            self.every_dtype = kind == "attention"
            directions.measure(self, kind)
        else:
            kind = "elementwise" if kind == "region" else kind
            self.every_dtype = not isinstance(lens, Affine)
            self._mask(lens, units)
            self._evaluate(lens)
            self._other_rates(lens)
        training, in_eval, backward = self.tally.records()
        if kind == "elementwise" and (training.spread or 0) > 0.05:
            kind = "noise"
        if kind in ("recurrent", "region"):
            training = replace(training, mean=None, mean_error=None)
        return Site(
            module="" if subject.module is not None else "-",
            class_name="" if subject.module is None else type(subject.module).__name__,
            kind=kind,
            function=subject.name,
            where=subject.where,
            p=subject.p,
            p_least=subject.p,
            p_most=subject.p,
            dtype=str(dtype).removeprefix("torch."),
            tolerance=lens.error(dtype) if isinstance(lens, Affine) else tolerance(dtype),
            is_module=subject.module is not None,
            inside=subject.inside if subject.module is not None else "",
            training=training,
            eval=in_eval,
            probed_eval=self._probed,
            backward=backward,
            no_gradient=self.tally.no_gradient,
            freshness=self.tally.freshness,
            host_mask=0 if self.tally.freshness.repeats else self.tally.host_mask,
        )

    def _look_within(self) -> None:
        """What functions of torch the subject calls: alpha dropout is known by name only."""
        subject = self.subject
        with Within() as within:
            output(subject.call([t.detach().clone() for t in self.tensors]))
        made = within.applications
        subject.inside = "function" if made else "mask"
        only = made[0] if len(made) == 1 else None
        if only is not None and only.kind == "alpha" and subject.p in (None, only.p):
            subject.kind, subject.p = "alpha", only.p
        if only is not None and only.kind == "attention" and subject.kind == "region":
            subject.kind = "attention"

    def _decisions(self, lens: Direct | Affine) -> tuple[int, ...] | None:
        """Along which dimensions decisions differ; None: along all of them."""
        x = self.tensors[0]
        varying: set[int] = set()
        drops = 0
        for _ in range(_PROBES):
            sample = lens.sample(self.subject, self.tensors, gradient=False)
            kept = sample.y != 0
            varying |= {
                dim
                for dim in range(x.dim())
                if dim not in varying and bool((kept != kept.narrow(dim, 0, 1)).any())
            }
            drops += int((~kept).sum()) if kept.any() else 0
            if len(varying) == x.dim() or (varying and drops > 4 * kept.numel()):
                break
        if len(varying) == x.dim() or not varying:
            return None
        return tuple(sorted(varying))

    def _mask(self, lens: Direct | Affine, units: tuple[int, ...] | None) -> None:
        """Training mode, until enough was drawn: the calls of one shape, then other layouts."""
        for _ in range(4):
            self._train(lens, self.tensors, units, gradient=True)
        self.tally.forget()
        tensors = self._enlarged(lens)
        drawn = 0
        for number in range(_MOST_CALLS):
            drawn += self._train(lens, tensors, units, gradient=False)
            if number >= 1 and drawn >= self.wanted:
                break
        repeats = self.tally.freshness.repeats
        if repeats and self.subject.reseeds(self.tensors):
            self.tally.freshness = replace(self.tally.freshness, reseeded=repeats)
        self.tally.forget()
        for others in self._others(lens):
            self._train(lens, others, units, gradient=True)
        if self.subject.takes_inplace or self.subject.inplace_attribute:
            self.tally.forget()
            with self.subject.working_in_place():
                self._train(lens, self.tensors, units, gradient=True, inplace=True)

    def _enlarged(self, lens: Direct | Affine) -> list[Tensor]:
        if not self._own:
            return self.tensors
        x = self.tensors[0]
        shape = power_shape(x.shape, self._varying)
        larger = [values(shape, x.dtype, x.device) for _ in self.tensors]
        try:
            lens.sample(self.subject, larger, gradient=False)
        except Exception:
            return self.tensors  # it takes this shape only
        return larger

    def _others(self, lens: Direct | Affine) -> Iterator[list[Tensor]]:
        """The shape in other memory layouts, as far as the subject takes them."""
        x = self.tensors[0]
        if not self._own or len(self.tensors) > 1:
            return
        for other in layouts(x.shape, x.dtype, x.device):
            try:
                lens.sample(self.subject, [other], gradient=False)
            except Exception:
                continue  # `.view` on a transposed tensor and the like: said aloud, no silent fault
            yield [other]

    def _train(
        self,
        lens: Direct | Affine,
        tensors: Sequence[Tensor],
        units: tuple[int, ...] | None,
        *,
        gradient: bool,
        inplace: bool = False,
    ) -> int:
        sample = lens.sample(self.subject, tensors, gradient=gradient, inplace=inplace)
        x, y, moved = sample.x, sample.y, sample.moved
        dropped = bool(((y == 0) & (x != 0)).any())
        changed = bool((x != y).any())
        call = self.tally.call(acted=changed or moved, filled=x.numel() > 0)
        if not x.numel():
            return 0
        kept = bool((y != 0).any())
        if dropped and kept and not moved and not self.subject.private_generator():
            self.tally.host_mask += 1
        self.tally.forward(x, y, units)
        if changed:  # where it is the mask itself, the same input gives the same output
            shown = y if isinstance(lens, Direct) else verdicts(x, y)
            self.tally.fresh(shown, draws_of(x.shape, self._varying), call)
        if gradient:
            self._differentiated(sample, lens, call)
        return draws_of(x.shape, units)

    def _differentiated(self, sample: Sample, lens: Direct | Affine, call: int) -> None:
        if sample.dx is None or sample.dy is None:
            self.tally.no_gradient += 1
            return
        dtype = sample.y.dtype
        bound = tolerance(dtype)
        if isinstance(lens, Affine):
            bound = max(1e-6, 2 * lens.error(dtype))
        elif lens.shift[0]:
            bound *= 16
        self.tally.backward((sample.x, sample.y, sample.dx, sample.dy), bound, call)
        if sample.again is not None:
            self.tally.backward(sample.again, bound, call)

    def _evaluate(self, lens: Direct | Affine) -> None:
        """Eval mode, twice with different random numbers."""
        if not self.subject.has_mode:
            return
        for _ in range(4):
            before = random_states()
            x = self.tensors[lens.index if isinstance(lens, Affine) else 0].detach()
            y = eval_output(self.subject, self.tensors)
            moved = random_states() != before
            if isinstance(lens, Affine):
                same = torch.equal(y, eval_output(self.subject, self.tensors))
                self.tally.eval_call(acted=moved or not same)
                continue
            ratio = (y / x).to(torch.float64)
            constant = float((ratio - ratio.mean()).abs().max()) <= 0.02 * abs(float(ratio.mean()))
            if constant and self._probed is None:
                self._probed = float(ratio.mean())
                if abs(self._probed - 1) <= 4 * torch.finfo(x.dtype).eps:
                    self._probed = 1.0
            self.tally.eval_call(acted=moved or not constant)
            self.tally.eval_forward(x, y)

    def _other_rates(self, lens: Direct | Affine) -> None:
        """With p = 0 nothing is dropped or scaled; with p = 1 nothing is left."""
        subject = self.subject
        for p in (0.0, 1.0):
            other = subject.with_p(p)
            if other is None or isinstance(lens, Affine) or subject.kind in _OWN_RATES:
                continue
            try:
                other.p = p
                y = output(other.call([t.clone() for t in self.tensors]))
            except Exception:
                continue  # it refuses the rate, aloud
            x = self.tensors[0]
            if y.shape != x.shape:
                continue
            left = float((y.detach() - x * (1 - p)).abs().max())
            # Not a number at p = 1 is 0 / 0: careless, but no use of such a rate was asked for.
            if left > 8 * torch.finfo(x.dtype).eps * float(x.abs().max()):
                does = "changes its input" if p == 0 else "keeps some of its input"
                what = f"{subject.name} with p = {p:g} {does}"
                self.extra.append(finding("DRP110", subject.where, what, (("p", p), ("off", left))))
