"""How an audit gets to see what runs, and how everything is put back.

Nothing is set on the audited modules: their hooks, their `state_dict`, their copies stay as they
are. One function takes the place of `nn.Module.__call__`, one that of `autograd.Function.apply`,
and a `TorchFunctionMode` sees functions by whatever name they were imported, while audits run.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim.optimizer import register_optimizer_step_post_hook

from dropaudit.runtime.attention import AttentionCall
from dropaudit.runtime.engine import Engine
from dropaudit.runtime.functionmode import FunctionMode
from dropaudit.runtime.handmade import CONSTANT, RANDOM, function_name
from dropaudit.runtime.multihead import SHIM
from dropaudit.runtime.sites import (
    ATTENTION,
    FAST_PATH,
    FUNCTIONS,
    MULTI_HEAD,
    RECURRENT,
    Application,
    application_by_name,
    first_tensor,
    function_application,
    is_compiled,
    is_torch_dropout,
    looks_like_dropout,
    module_application,
    rate,
)
from dropaudit.runtime.threads import THREAD, Heard, unwatched

if TYPE_CHECKING:
    from dropaudit.runtime.calls import Begun
    from dropaudit.runtime.recorder import Recorder

_MODULE: Any = nn.Module
_FUNCTION: Any = torch.autograd.Function
_HOST = {"from_numpy", "tensor", "as_tensor", "frombuffer", "asarray"}
_DROP = re.compile(r"drop(?!_last)", re.IGNORECASE)


class Interception:
    """What is patched while at least one audit runs; and who wants to hear of it."""

    def __init__(self) -> None:
        self.recorders: tuple[Recorder, ...] = ()
        self._lock = threading.RLock()
        self._mode = FunctionMode(self.torch_function, self.recording)
        self._engine = Engine(self._mode, self._awaits_functions)
        self._call: Callable[..., Any] = nn.Module.__call__
        self._apply: Any = None
        self._patched_call: Any = None
        self._patched_apply: Any = None
        self._optimizer_hook: Any = None
        self._sites: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._draws: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self._height = 0

    # Beginning and end

    def attach(self, recorder: Recorder) -> None:
        """Begin to tell a recorder what runs."""
        with self._lock:
            if not self.recorders:
                self._install()
            self.recorders = (*self.recorders, recorder)
            self._sites.clear()  # this audit may declare others
        if not THREAD.mode_is_on:
            self._height = torch._C._len_torch_function_stack()
            self._mode.put_on()
        self._refresh()

    def detach(self, recorder: Recorder) -> None:
        """Tell it no more. The last one to go puts everything back."""
        with self._lock:
            self.recorders = tuple(each for each in self.recorders if each is not recorder)
            THREAD.roots.pop(recorder.calls, None)
            if not self.recorders:
                self._uninstall()
        self._refresh()

    def _install(self) -> None:
        interception, original = self, nn.Module.__call__
        self._call = original

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or THREAD.quiet or not interception.recorders:
                return original(module, *args, **kwargs)
            return interception.module_called(module, args, kwargs)

        self._patched_call = __call__
        _MODULE.__call__ = __call__
        self._apply = vars(torch.autograd.Function).get("apply")
        descriptor = inspect.getattr_static(torch.autograd.Function, "apply")

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return descriptor.__get__(None, cls)(*args, **kwargs)

        def patched(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or THREAD.quiet or THREAD.inside or not interception.recording():
                return apply(cls, *args, **kwargs)
            THREAD.applying += 1
            try:
                return interception.function_applied(apply, cls, args, kwargs)
            finally:
                THREAD.applying -= 1

        self._patched_apply = classmethod(patched)
        _FUNCTION.apply = self._patched_apply
        self._engine.install()
        self._optimizer_hook = register_optimizer_step_post_hook(self._optimizer_stepped)

    def _uninstall(self) -> None:
        if vars(nn.Module).get("__call__") is self._patched_call:
            _MODULE.__call__ = self._call
        if vars(torch.autograd.Function).get("apply") is self._patched_apply:
            if self._apply is None:  # it was inherited
                del _FUNCTION.apply
            else:
                _FUNCTION.apply = self._apply
        if self._optimizer_hook is not None:
            self._optimizer_hook.remove()
            self._optimizer_hook = None
        self._engine.uninstall()
        self._mode.take_off(anywhere=True)
        THREAD.handmade.clear()
        THREAD.rescaling.clear()
        THREAD.settle()
        THREAD.root_state = None

    def recording(self) -> bool:
        """Whether some audit looks at the current step."""
        return any(recorder.recording for recorder in self.recorders)

    def _awaits_functions(self) -> bool:
        return any(
            recorder.recording and recorder.calls.ledger.pairing.awaits_functions
            for recorder in self.recorders
        )

    # Modules

    def module_called(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module is called."""
        if THREAD.inside or (THREAD.stack and not THREAD.watching):
            return self._call(module, *args, **kwargs)
        for heard in THREAD.listening:
            heard.module = True
        stack = THREAD.stack
        outermost, pushed, was_on, result = not stack, False, False, None
        stack.append(module)
        THREAD.arguments.append(args)
        entered: list[Recorder] = []
        try:
            for recorder in self.recorders:
                if recorder.calls not in THREAD.roots and recorder.owns(module):
                    THREAD.roots[recorder.calls] = len(stack) - 1
                    entered.append(recorder)
                    recorder.enter(module, args, kwargs)
                elif recorder.recording and recorder.calls in THREAD.roots:
                    recorder.called(module)
            if outermost:
                THREAD.handmade.begin()
                THREAD.settle()
            if outermost or entered:
                self._refresh()
            if outermost and not self._mode.sees and self.recording():
                was_on = THREAD.mode_is_on
                self._mode.put_on()
                pushed = True
            result = self._dispatch(module, args, kwargs)
            for recorder in self.recorders:
                recorder.calls.returned(module, args, kwargs)
            return result
        finally:
            if pushed:
                self._mode.take_off()
                THREAD.mode_is_on = was_on
            stack.pop()
            THREAD.arguments.pop()
            for recorder in entered:
                THREAD.roots.pop(recorder.calls, None)
                recorder.leave(module, result)
            if outermost and THREAD.handmade:
                THREAD.handmade.clear()
                THREAD.settle()

    def _dispatch(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not self.recording():
            return self._call(module, *args, **kwargs)
        is_site = self._sites.get(module)
        if is_site is None:
            is_site = (
                is_torch_dropout(module)
                or looks_like_dropout(module)
                or any(recorder.declares(module) for recorder in self.recorders)
            )
            self._sites[module] = is_site
        if is_site:
            x = first_tensor(args)
            x = first_tensor(kwargs) if x is None else x
            if x is not None:
                application = module_application(module, x) or application_by_name(
                    type(module).__name__, rate(module), module.training, x
                )
                return self._site(
                    module, application, x, lambda: self._call(module, *args, **kwargs)
                )
        fast = type(module) in FAST_PATH and not module.training
        if (fast or is_compiled(module)) and self._mode.is_alone:
            self._mode.take_off()
            try:
                return self._call(module, *args, **kwargs)
            finally:
                self._mode.put_on()
        return self._call(module, *args, **kwargs)

    # Sites

    def _site(
        self,
        module: nn.Module | None,
        application: Application,
        x: Tensor,
        run: Callable[[], Any],
        draw: int | None = None,
        keep: list[Begun] | None = None,
    ) -> Any:
        recorders = [recorder for recorder in self.recorders if recorder.recording]
        with unwatched():
            begun = [(each, each.calls.begin(module, application, x, draw)) for each in recorders]
        heard = Heard()
        with THREAD.in_site(heard):
            result = run()
        with unwatched():
            y = first_tensor(result)
            for recorder, begin in begun:
                if begin is not None:
                    recorder.calls.end(begin, y, heard)
                    begin.release()
                    if keep is not None:
                        keep.append(begin)
            if application.kind in ("elementwise", "feature") and application.p and y is not None:
                ended = [begin for _, begin in begun if begin is not None and begin.sampled]
                THREAD.rescaling.expect(y, ended, application.p)
                THREAD.settle()
        return result

    def function_applied(self, apply: Any, cls: Any, args: Any, kwargs: Any) -> Any:
        """A `torch.autograd.Function` is applied."""
        x = first_tensor(args)
        if x is None or self._draws.get(cls) is False or cls.__module__.startswith("torch."):
            return apply(cls, *args, **kwargs)
        if any(callable(each) for each in args if not isinstance(each, Tensor)):
            return apply(cls, *args, **kwargs)  # a checkpoint: what it runs is seen as it runs
        named = bool(_DROP.search(cls.__name__))
        if named:
            application = application_by_name(cls.__name__, _rate_among(args), None, x)
            return self._site(None, application, x, lambda: apply(cls, *args, **kwargs))
        begun = [(each, each.calls.edge(x)) for each in self.recorders if each.recording]
        heard = Heard()
        with THREAD.listen(heard):
            result = apply(cls, *args, **kwargs)
        drops = not heard.module and (heard.function or heard.product)
        if cls not in self._draws or drops:
            self._draws[cls] = drops
        if drops:
            application = application_by_name(cls.__name__, _rate_among(args), None, x)
            y = first_tensor(result)
            for recorder, edge in begun:
                begin = recorder.calls.begin(None, application, x, edge=edge)
                if begin is not None:
                    recorder.calls.end(begin, y, heard)
        return result

    def declared(
        self, function: Callable[..., Any], application: Application, x: Tensor, run: Any
    ) -> Any:
        """A function that its author declared a site is called."""
        if THREAD.quiet or THREAD.inside or not self.recording():
            return run()
        return self._site(None, application, x, run)

    # Functions

    def torch_function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A torch function is called, by whatever name."""
        name = function_name(function)
        if THREAD.inside or THREAD.listening:
            self._listen(function, name, kwargs)
            if THREAD.inside:
                return function(*args, **kwargs)
        if THREAD.rescaling:
            THREAD.rescaling.see(name, args)
            THREAD.settle()
        signature = FUNCTIONS.get(function)
        if signature is not None:
            application = function_application(signature, args, kwargs)
            if application is not None:
                x = signature.bind(args, kwargs)["input"]
                return self._site(None, application, x, lambda: function(*args, **kwargs))
        elif function is ATTENTION:
            return self._attention(function, args, kwargs)
        elif function is MULTI_HEAD:
            return self._multi_head(function, args, kwargs)
        elif function in RECURRENT:
            return self._recurrent(function, args, kwargs)
        elif name in RANDOM or name in CONSTANT or THREAD.handmade:
            return self._handmade(function, name, args, kwargs)
        return function(*args, **kwargs)

    def _listen(self, function: Any, name: str, kwargs: Any) -> None:
        for heard in (*THREAD.inside, *THREAD.listening):
            heard.function |= function in FUNCTIONS
            heard.draw |= name in RANDOM
            heard.own_generator |= name in RANDOM and kwargs.get("generator") is not None
            heard.host |= name in _HOST

    def _handmade(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        handmade = THREAD.handmade
        product = handmade.product(name, args, kwargs)
        for heard in THREAD.listening:
            heard.product |= product is not None
        if product is None or THREAD.listening:
            gain = handmade.rescaled(name, args, kwargs)
            result = function(*args, **kwargs)
            handmade.follow(name, args, kwargs, result)
            THREAD.settle()
            if gain is not None:
                handmade.note_scaled(gain, result)
            return result
        application = Application(
            kind="mask",
            function="mask",
            p=None if product.keep is None else 1 - product.keep,
            on=None,
            inplace=product.inplace,
        )
        begun: list[Begun] = []
        result = self._site(
            *(None, application, product.x, lambda: function(*args, **kwargs)),
            draw=product.draw,
            keep=begun,
        )
        handmade.note_product(product, result, begun)
        return result

    def _attention(self, function: Any, args: Any, kwargs: Any, shown: str = "") -> Any:
        call = AttentionCall.of(args, kwargs, shown)
        if call is None:
            return function(*args, **kwargs)
        begun = [
            (each, begin)
            for each in self.recorders
            if each.recording
            and (begin := each.calls.begin(None, call.application, call.value, sample=False))
        ]
        result = function(*args, **kwargs)
        for recorder, begin in begun:
            recorder.calls.end_attention(begin, call, result)
        return result

    def _multi_head(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Look into the function: a mode sees only its outside."""
        owner = THREAD.stack[-1] if THREAD.stack else None
        shown = "nn.MultiheadAttention"
        if not isinstance(owner, nn.MultiheadAttention):
            shown = "F.multi_head_attention_forward"

        def attention(*inner: Any, **more: Any) -> Any:
            return self._attention(ATTENTION, inner, more, shown)

        def dropout(*inner: Any, **more: Any) -> Any:
            return self.torch_function(_DROPOUT, inner, more)

        before, THREAD.multi_head = THREAD.multi_head, (attention, dropout)
        try:
            with SHIM:
                return function(*args, **kwargs)
        finally:
            THREAD.multi_head = before

    def _recurrent(self, function: Any, args: Any, kwargs: Any) -> Any:
        packed = len(args) > 3 and isinstance(args[3], (list, tuple))
        at = 4 if packed else 3
        values = args[at : at + 5]
        x = first_tensor(args)
        if len(values) < 4 or x is None or not isinstance(values[2], float):
            return function(*args, **kwargs)
        _, layers, p, training = values[:4]
        if p == 0 or layers < 2:
            return function(*args, **kwargs)
        owner = type(THREAD.stack[-1]).__name__ if THREAD.stack else f"torch.{RECURRENT[function]}"
        application = Application("recurrent", f"nn.{owner}", float(p), bool(training))
        begun = [
            (each, begin)
            for each in self.recorders
            if each.recording and (begin := each.calls.begin(None, application, x, sample=False))
        ]
        result = function(*args, **kwargs)
        for recorder, begin in begun:
            recorder.calls.end_moved(begin)
        return result

    # Steps

    def _optimizer_stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for recorder in self.recorders:
            recorder.optimizer_stepped(optimizer)
        self._refresh()
        # Steps that are not audited pay for no mode, if it lies where it can be taken off.
        height = torch._C._len_torch_function_stack()
        if THREAD.stack:
            return
        if not self.recording():
            if THREAD.mode_is_on and height == self._height + 1:
                self._mode.take_off()
        elif not THREAD.mode_is_on and height == self._height:
            self._mode.put_on()

    def _refresh(self) -> None:
        THREAD.watching = any(
            recorder.recording or recorder.calls not in THREAD.roots for recorder in self.recorders
        )


_DROPOUT = F.dropout


def _rate_among(args: Any) -> float | None:
    for value in args:
        if isinstance(value, float) and 0 <= value <= 1:
            return value
    return None


INTERCEPTION = Interception()
"""There is one `nn.Module.__call__`, and so one interception, for all audits."""
