"""What may be done with each data set, as its makers say it; nothing of them lies in this repository but the text."""

from __future__ import annotations

_CIFAR = (
    "A. Krizhevsky, V. Nair and G. Hinton, https://www.cs.toronto.edu/~kriz/cifar.html: no licence is stated; "
    "the makers ask for the citation of the technical report of 2009."
)
_DIGITS = (
    "Optical recognition of handwritten digits, UCI (E. Alpaydin and C. Kaynak), as scikit-learn bundles it: CC BY 4.0."
)
_IMAGENET = (
    "https://www.image-net.org: non-commercial research and education only, under its terms of access; the images "
    "stay their owners'."
)

#: Licence and source by the name that `nsl.data.load`, `load_fewshot`, `load_sequences` or `load_segmentation` knows.
LICENCES: dict[str, str] = {
    "digits": _DIGITS,
    "digit_rows": f"Rows of the digits. {_DIGITS}",
    "digit_scenes": f"Rendered here from the digits. {_DIGITS}",
    "adding": "Random numbers made here.",
    "glyphs": "Rendered here from the DejaVu fonts that matplotlib bundles, under the licence of these fonts.",
    "glyphs_fs": "Rendered here from the DejaVu fonts that matplotlib bundles, under the licence of these fonts.",
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "cifar_fs": f"Classes of CIFAR-100 split by L. Bertinetto et al. (ICLR 2019). {_CIFAR}",
    "imagenet": _IMAGENET,
    "mini_imagenet": f"Classes of ImageNet split by S. Ravi and H. Larochelle (ICLR 2017). {_IMAGENET}",
    "tiny_imagenet": f"Classes of ImageNet reduced for Stanford's course CS231n. {_IMAGENET}",
    "tiny_imagenet_25": f"25 classes of Tiny-ImageNet. {_IMAGENET}",
    "tiny_imagenet_25_fs": f"25 classes of Tiny-ImageNet. {_IMAGENET}",
}
