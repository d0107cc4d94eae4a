"""Where in an image a network finds its answer, on clean and on adversarial images (FGSM-SDI, Fig. 9), by Captum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib.figure import Figure
from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.errors import BadInput
from sparring.results.attacked import Attacked
from sparring.results.picture import answer, picture


def grad_cam(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return Grad-CAM's maps (B, H, W), each from 0 to 1, for the logits `target` (B,) (Selvaraju et al., ICCV 2017).

    They are of the last module whose output has a height and a width: of a ResNet its last stage. Where nothing speaks for
    the answer, a map is 0 everywhere. Raises BadInput for a network without such a module.
    """
    with attackable(network, "eval"), torch.enable_grad():
        maps = LayerGradCam(network, _last_spatial(network, x)).attribute(
            x.detach().requires_grad_(), target, relu_attributions=True
        )
    larger = LayerAttribution.interpolate(maps.detach(), x.shape[2:], interpolate_mode="bilinear")[:, 0]
    return larger / larger.flatten(1).amax(1).clamp_min(torch.finfo(larger.dtype).tiny)[:, None, None]


def _last_spatial(network: nn.Module, x: Tensor) -> nn.Module:
    """Return the module inside the network that finishes last with an output (B, C, H, W) larger than 1 x 1."""
    seen: list[nn.Module] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            seen.append(module)

    handles = [module.register_forward_hook(look) for module in network.modules() if module is not network]
    try:
        with torch.no_grad():
            network(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise BadInput("Grad-CAM needs a layer with a height and a width, and the network has none.")
    return seen[-1]


def panels(found: Mapping[str, tuple[Attacked, Tensor, Tensor]], classes: Sequence[str]) -> Figure:
    """Return a row a network: image, map, adversarial image and its map, for each image, with the answers above them."""
    count = len(next(iter(found.values()))[0].y)
    figure = Figure(figsize=(0.4 + 4 * 1.15 * count, 1.55 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 4 * count, squeeze=False)
    for line, (name, (images, clean, adversarial)) in zip(grid, found.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for column in range(count):
            pictures = (images.x[column], images.adversarial[column])
            for half, pixels, likely, heat in zip(
                (line[4 * column :], line[4 * column + 2 :]),
                pictures,
                (images.before, images.after),
                (clean, adversarial),
                strict=True,
            ):
                for cell in half[:2]:
                    cell.set(xticks=[], yticks=[])
                    cell.imshow(picture(pixels), cmap="gray", vmin=0, vmax=1)
                half[0].set_title(answer(likely[column], classes), fontsize=7)
                half[1].imshow(heat[column].cpu().numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    return figure
