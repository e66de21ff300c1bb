"""The objective of a self-supervised image encoder: find the other view of the same image.

SimCLR (Chen et al., ICML 2020, arXiv:2002.05709), for images that lie in memory.
Shapes: n images, B batch, C channels, H x W pixels, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ensue.data.image_views import ImageViewsConfig, make_views, to_unit
from ensue.errors import DataError
from ensue.losses.contrastive import nt_xent
from ensue.training.objective import Batch, Objective

ENCODE_ROWS = 1024


class ImageViewsObjective(Objective):
    """Two random views of each image of a batch; an example is an image.

    What is left of an epoch and fills no batch is left out: it is another rest each time, and a
    loss over a small batch is of another size.

    Args:
        images: [n, C, H, W], uint8, or floats in 0..1.

    Raises:
        DataError: there are less than two images.
    """

    def __init__(
        self,
        images: Tensor,
        views: ImageViewsConfig,
        *,
        batch_size: int,
        temperature: float,
        seed: int,
    ) -> None:
        self.batch_size = min(batch_size, len(images))
        if self.batch_size < 2:
            raise DataError(f"an encoder is trained on two images or more; got {len(images)}.")
        self.num_batches = len(images) // self.batch_size
        super().__init__(self.num_batches * self.batch_size, seed=seed)
        self._images, self._views, self._temperature = images, views, temperature

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield two views [B, C, H, W] of the images of batch first, first + 1, ..."""
        order = torch.randperm(len(self._images), generator=self.generator(epoch))
        for number in range(first, self.num_batches):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            images, generator = to_unit(self._images[rows]), self.generator(epoch, number + 1)
            yield [make_views(images, self._views, generator) for _ in range(2)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean NT-Xent over the views of a batch, a scalar."""
        first, second = model(torch.cat(list(batch))).chunk(2)
        return nt_xent(first, second, temperature=self._temperature)


@torch.inference_mode()
def encode_images(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return features [n, D] float32 of images [n, C, H, W] by any encoder, in evaluation mode.

    Batch normalization thus uses what it learned, and not the images that happen to lie beside one.
    """
    was_training = encoder.training
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    encoder.eval()
    parts = [
        encoder(to_unit(part).to(device)).float().cpu() for part in torch.split(images, ENCODE_ROWS)
    ]
    encoder.train(was_training)
    return torch.cat(parts)
