"""What GradCAMLogger explains of an image: which layer, for which target, by which method."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_convviz import cams, layers, targets
from lightning_convviz.engine.contract import Explanation, ForwardResult, ProbeView
from lightning_convviz.probes import Probes

SMALL = 128  # pixels: images up to this size are explained at a second, higher resolution too


class Explainer:
    """Which layer, target and method; the layers are chosen in the first drawing.

    Attributes:
        method: a name or a function.
        target: a name, a class or a function.
        layer: the one that is explained, or those that are fused; empty before the first drawing.
        high_res_layer: a second one, explained with HiResCAM; None without.
    """

    def __init__(
        self,
        layer: str | list[str],
        method: str | Callable[..., Any],
        target: Callable[..., Any] | str | int,
        high_res_layer: str | None,
    ) -> None:
        self.method = method
        self.target = target
        self._wanted_layer = layer
        self._wanted_high_res_layer = high_res_layer
        self._fuses = isinstance(method, str) and method in cams.FUSIONS
        self.reset()

    def reset(self) -> None:
        """A new run: nothing is chosen yet."""
        self.layer: str | tuple[str, ...] = ()
        self.high_res_layer: str | None = None
        self._is_final = False
        self._note = ""

    @property
    def has_classes(self) -> bool:
        """Whether the target is a class; a function may score something else, of which there are no mistakes."""
        return isinstance(self.target, str | int)

    @property
    def method_name(self) -> str:
        """The method's name."""
        return self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "cam")

    @property
    def target_name(self) -> str | int:
        """The target's name, or its class."""
        return self.target if isinstance(self.target, str | int) else getattr(self.target, "__name__", "target")

    def unit(self, result: ForwardResult) -> str:
        """What the maps in `result` are measured in."""
        if not self.has_classes:
            return "units of the score"
        return cams.unit_of(self.method, bool(result.uniform_gradient[0]))

    # -- layers --------------------------------------------------------------------------------------------------------

    def validate(self, model: nn.Module) -> None:
        """Before anything runs: complain about layers that the model does not have.

        Raises:
            ValueError: for such a layer.
        """
        if self._wanted_layer != "auto":
            layers.find(model, self._wanted_layer, argument="layer")
        if self._wanted_high_res_layer not in ("auto", None):
            layers.find_one(model, self._wanted_high_res_layer, argument="high_res_layer")

    def select(self, view: ProbeView, output: Callable[..., Any] | None, reshape: Callable[..., Any] | None) -> str:
        """Choose the layers, and return what there is to say of the choice: each time once.

        A choice is made anew as long as no gradient reaches any layer, or where a chosen layer no longer runs.

        Raises:
            ValueError: where a layer does not run, or none can be found.
        """
        chosen = {self.layer} if isinstance(self.layer, str) else {*self.layer}
        if chosen and self._is_final and chosen <= view.trace.keys():
            return ""
        names = [] if self._wanted_layer == "auto" else layers.find(view.model, self._wanted_layer, argument="layer")
        high_res = None
        if self._wanted_high_res_layer not in ("auto", None):
            high_res = layers.find_one(view.model, self._wanted_high_res_layer, argument="high_res_layer")
        finds_high_res = self._wanted_high_res_layer == "auto" and max(view.probes.images.shape[2:]) <= SMALL
        note, is_final = "", True
        if not names or (finds_high_res and reshape is None):
            choice = cams.choose(
                view.model,
                view.probes.images,
                forward=view.forward,
                output=output,
                extra_inputs=view.extra_inputs,
                runs=view.trace,
            )
            is_final = choice.is_certain
            if not names:
                note, names = choice.note, [choice.layer]
                if self._fuses and choice.high_res_layer is not None:
                    names.insert(0, choice.high_res_layer)
            if finds_high_res and choice.high_res_layer not in names:
                high_res = choice.high_res_layer
        if self._wanted_layer != "auto":
            layers.require_ran(view.trace, names, argument="layer")
        if not self._fuses and len(names) > 1:
            layers.find_one(view.model, str(self._wanted_layer), argument="layer")  # raises: one layer has to be named
        self.layer = tuple(names) if self._fuses else names[0]
        self.high_res_layer, self._is_final = high_res, is_final
        is_news, self._note = note != self._note, note
        return note if is_news else ""

    # -- targets -------------------------------------------------------------------------------------------------------

    def explanations(self, probes: Probes, device: torch.device, *, pair: bool = False) -> list[Explanation]:
        """The heatmaps to ask for of some images.

        Args:
            probes: the images.
            device: the model's.
            pair: whether always to explain two classes, whatever the target.

        Raises:
            ValueError: where labels are to be explained, and there are none.
        """
        labels = None if probes.labels is None else torch.as_tensor(probes.labels, device=device)
        wanted: list[Any] = [self.target]
        if pair or self.target == "auto":
            wanted = ["predicted", "runner_up" if labels is None else targets.true_or_runner_up(labels)]
        elif self.target == "label":
            if labels is None:
                raise ValueError('`target` is "label", and the probes have no labels. Give `probes=` with labels.')
            wanted = [labels]
        found = [Explanation(self.layer, target, self.method) for target in wanted]
        if self.high_res_layer is not None:
            found.append(Explanation(self.high_res_layer, wanted[0], "hirescam"))
        return found

    def classes(self, logits: Float[Tensor, "n ..."], probes: Probes) -> Int[Tensor, " n"] | None:
        """The class that the first map of each image explains; None where it explains no class."""
        if not self.has_classes or logits.ndim != 2:
            return None
        if isinstance(self.target, int):
            return torch.full((len(logits),), self.target, device=logits.device)
        if self.target == "label" and probes.labels is not None:
            return torch.as_tensor(probes.labels, device=logits.device)
        return logits.argsort(dim=1, descending=True)[:, 1 if self.target == "runner_up" else 0]

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was asked for, and what was chosen, as plain values."""
        return {
            "wanted": self._fingerprint(),
            "layer": self.layer if isinstance(self.layer, str) else list(self.layer),
            "high_res_layer": self.high_res_layer,
            "is_final": self._is_final,
        }

    def matches(self, state: Mapping[str, Any]) -> bool:
        """Whether an earlier run was asked for the same."""
        return list(state["wanted"]) == self._fingerprint()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run chose."""
        self.layer = state["layer"] if isinstance(state["layer"], str) else tuple(state["layer"])
        self.high_res_layer = state["high_res_layer"]
        self._is_final = bool(state["is_final"])

    def _fingerprint(self) -> list[str]:
        target = self.target if isinstance(self.target, str | int) else getattr(self.target, "__name__", "own")
        return [repr(self._wanted_layer), repr(self._wanted_high_res_layer), self.method_name, repr(target)]
