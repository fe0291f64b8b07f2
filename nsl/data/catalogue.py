"""Every fact about every data set, in one place: a new set is one entry here and the loader that it names.

This file imports nothing but the standard library, so that the facts can be had without torch (see
`reproduce.declare.shapes`); a loader is named as "module:function" and imported when its set is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The kinds of sets, as messages name them; each has its function that loads: `nsl.data.load`, `load_fewshot`,
#: `load_sequences` and `load_segmentation`.
IMAGES, FEWSHOT, SEQUENCES, SEGMENTATION = "data set", "few-shot set", "set of sequences", "segmentation set"


@dataclass(frozen=True)
class Archive:
    """A gzipped tar file known by its name and md5 (hexadecimal)."""

    file: str
    md5: str


@dataclass(frozen=True)
class Layout:
    """The binary files of a CIFAR set, and what they must hold.

    Attributes:
        folder: that the archive unpacks to.
        archive: at the official address.
        train, test: number of records by file name.
        names_file: the names of the classes.
        label_ranges: number of values of each label byte of a record; the last one is the class.
        digests: of the published train and test records (`nsl.data.known.record_digest`).
        names_digest: of the published names (`nsl.data.cifar.names_digest`).
        pickled: what lies in a data folder where someone has the version of pickles.
    """

    folder: str
    archive: Archive
    train: dict[str, int]
    test: dict[str, int]
    names_file: str
    label_ranges: tuple[int, ...]
    digests: dict[str, str]
    names_digest: str
    pickled: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return self.label_ranges[-1]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.names_file)


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        name: that its kind's function knows it by.
        kind: `IMAGES`, `FEWSHOT`, `SEQUENCES` or `SEGMENTATION`.
        title: how it is written.
        loader: "module:function", called with what it `needs` and the options, all by keyword.
        needs: which of "name", "root" (the data folder) and "download" the loader takes.
        options: that the set has.
        source: who made it, and where it is.
        licence: what may be done with it, as its makers say.
        image_size: height and width of the images unless the options say more; of sequences the number of steps.
        classes: of the training; where targets are numbers, 1.
        train, test: numbers of images, of a few-shot set those of base and novel classes.
        novel: classes of the test images, where they are others.
        channels: numbers a step of a sequence; 0: as many as there are steps.
        stored_size: height and width at which images are kept decoded; 0 where they are not.
        bytes: of the official files, unpacked.
        folders: below the data folder that may hold the files, "." for itself.
        files: patterns of the files in them.
        packages: of a set that is bundled or made, those that determine its contents.
        class_list: whether `wnids.txt` lists the classes, and `val_annotations.txt` the test images' (Tiny-ImageNet).
        layout: of the files, where they are binary.
        paper_images: training images of a run in the paper's protocol (section 7.1); 0 where it names none.
    """

    name: str
    kind: str
    title: str
    loader: str
    options: tuple[str, ...]
    source: str
    licence: str
    image_size: int
    classes: int
    train: int
    test: int
    novel: int = 0
    channels: int = 3
    needs: tuple[str, ...] = ()
    stored_size: int = 0
    bytes: int = 0
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    class_list: bool = False
    layout: Layout | None = None
    paper_images: int = 0

    @property
    def embedded(self) -> bool:
        """Whether the set is bundled with a package or made, and not read from the data folder."""
        return "root" not in self.needs

    @property
    def terms(self) -> str:
        """Source and licence in a line."""
        return f"{self.source}: {self.licence}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Files of the data folder whose sizes and dates say whether the data may have changed."""
        return tuple(f"{folder}/{part}" for folder in self.folders for part in self.files)

    def stored(self, image_size: int) -> int:
        """Height and width at which images are kept decoded for a network whose input has this size."""
        return round(image_size * self.stored_size / self.image_size)


_PER_CLASS = ("train_per_class", "test_per_class", "validation")
_SIZED = ("image_size", *_PER_CLASS)
_CIFAR = "A. Krizhevsky, V. Nair and G. Hinton, https://www.cs.toronto.edu/~kriz/cifar.html"
_CITE = "no licence is stated; the makers ask for the citation of the technical report of 2009."
_DIGITS = "Optical recognition of handwritten digits, UCI (E. Alpaydin and C. Kaynak), as scikit-learn bundles it"
_FONTS = "Rendered here from the DejaVu, STIX and Computer Modern fonts that matplotlib bundles"
_OF_FONTS = "the licences of these fonts."
_IMAGENET = "https://www.image-net.org"
_RESEARCH = (
    "non-commercial research and education only, under its terms of access; the images stay their owners'."
)
_SKLEARN = ("scikit-learn", "numpy", "torch")
_DRAWN = ("matplotlib", "pillow", "numpy", "torch")
_TREE = ("*.txt", "train/**/*", "val/**/*")
_PAPER_BATCH = 128

_ENTRIES = (
    Entry(
        "digits", IMAGES, "digits", "nsl.data.digits:load_digits", _SIZED, _DIGITS, "CC BY 4.0.",
        image_size=16, classes=10, train=1438, test=359, packages=_SKLEARN,
    ),
    Entry(
        "glyphs", IMAGES, "glyphs", "nsl.data.glyphs:load_glyphs",
        ("num_classes", *_PER_CLASS, "seed", "image_size", "plain"), _FONTS, _OF_FONTS,
        image_size=32, classes=100, train=10_000, test=2_000, packages=_DRAWN,
    ),
    Entry(
        "cifar10", IMAGES, "CIFAR-10", "nsl.data.cifar:load_cifar", _PER_CLASS, _CIFAR, _CITE,
        image_size=32, classes=10, train=50_000, test=10_000, needs=("name", "root", "download"), bytes=185_000_000,
        folders=("cifar-10-batches-bin", "."), files=("*.bin", "*.txt"), paper_images=64_000 * _PAPER_BATCH,
        layout=Layout(
            folder="cifar-10-batches-bin",
            archive=Archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
            train={f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
            test={"test_batch.bin": 10_000},
            names_file="batches.meta.txt",
            label_ranges=(10,),
            digests={"train": "e8b5fd0a4b0aa978364941d2a1808e29", "test": "13f89963e8baec350d551523bf4251da"},
            names_digest="bb3914949cecedee",
            pickled=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        ),
    ),
    Entry(
        "cifar100", IMAGES, "CIFAR-100", "nsl.data.cifar:load_cifar", _PER_CLASS, _CIFAR, _CITE,
        image_size=32, classes=100, train=50_000, test=10_000, needs=("name", "root", "download"), bytes=185_000_000,
        folders=("cifar-100-binary", "."), files=("*.bin", "*.txt"), paper_images=64_000 * _PAPER_BATCH,
        layout=Layout(
            folder="cifar-100-binary",
            archive=Archive("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
            train={"train.bin": 50_000},
            test={"test.bin": 10_000},
            names_file="fine_label_names.txt",
            label_ranges=(20, 100),
            digests={"train": "b3dcebc8fa21c93fc5a32e85ad652ff3", "test": "5d2d678d13ac4dcb00b086996d47e143"},
            names_digest="fbe8ad23bbaf2496",
            pickled=("cifar-100-python", "cifar-100-python.tar.gz"),
        ),
    ),
    Entry(
        "imagenet", IMAGES, "ImageNet", "nsl.data.imagenet:load_imagenet", _SIZED, _IMAGENET, _RESEARCH,
        image_size=224, classes=1000, train=1_281_167, test=50_000, needs=("name", "root"), stored_size=256,
        bytes=145 << 30, folders=(".", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"), files=_TREE,
        paper_images=600_000 * _PAPER_BATCH,
    ),
    Entry(
        "tiny_imagenet", IMAGES, "Tiny-ImageNet", "nsl.data.imagenet:load_imagenet", _SIZED,
        f"Classes of ImageNet reduced for Stanford's course CS231n. {_IMAGENET}", _RESEARCH,
        image_size=64, classes=200, train=100_000, test=10_000, needs=("name", "root"), stored_size=64,
        bytes=480_000_000, folders=("tiny-imagenet-200", "."), files=_TREE, class_list=True,
    ),
    Entry(
        "tiny_imagenet_25", IMAGES, "Tiny-ImageNet-25", "nsl.data.imagenet:load_imagenet", _SIZED,
        f"25 classes of Tiny-ImageNet. {_IMAGENET}", _RESEARCH,
        image_size=64, classes=25, train=5_000, test=1_250, needs=("name", "root"), stored_size=64,
        bytes=30_000_000, folders=("tiny-imagenet-25", "."), files=_TREE, class_list=True,
    ),
    Entry(
        "cifar_fs", FEWSHOT, "CIFAR-FS", "nsl.data.fewshot:load_cifar_fs", ("images_per_class",),
        f"Classes of CIFAR-100 split by L. Bertinetto et al. (ICLR 2019). {_CIFAR}", _CITE,
        image_size=32, classes=64, train=38_400, test=12_000, novel=20, needs=("root", "download"), bytes=185_000_000,
        folders=("cifar-100-binary", "."), files=("*.bin", "*.txt"),
    ),
    Entry(
        "mini_imagenet", FEWSHOT, "Mini-ImageNet", "nsl.data.fewshot:load_mini_imagenet",
        ("images_per_class", "image_size"),
        f"Classes of ImageNet split by S. Ravi and H. Larochelle (ICLR 2017). {_IMAGENET}", _RESEARCH,
        image_size=84, classes=64, train=38_400, test=12_000, novel=20, needs=("root",), bytes=7 << 30,
        folders=("mini-imagenet", "."),
        files=("*.csv", "n*/**/*", "train/**/*", "val/**/*", "test/**/*", "images/**/*"),
    ),
    Entry(
        "tiny_imagenet_25_fs", FEWSHOT, "Tiny-ImageNet-25", "nsl.data.fewshot:load_tiny_imagenet_fs",
        ("images_per_class", "image_size"), f"25 classes of Tiny-ImageNet. {_IMAGENET}", _RESEARCH,
        image_size=64, classes=14, train=3_500, test=1_250, novel=5, needs=("root",), bytes=30_000_000,
        folders=("tiny-imagenet-25", "."), files=_TREE,
    ),
    Entry(
        "glyphs_fs", FEWSHOT, "glyphs", "nsl.data.fewshot:load_glyphs_fs",
        ("images_per_class", "image_size", "seed", "plain"), _FONTS, _OF_FONTS,
        image_size=32, classes=64, train=64 * 60, test=20 * 60, novel=20, packages=_DRAWN,
    ),
    Entry(
        "digit_rows", SEQUENCES, "digit_rows", "nsl.data.sequences:load_digit_rows", ("image_size", "validation"),
        f"Rows of the digits. {_DIGITS}", "CC BY 4.0.",
        image_size=16, classes=10, train=1438, test=359, channels=0, packages=_SKLEARN,
    ),
    Entry(
        "adding", SEQUENCES, "adding", "nsl.data.sequences:load_adding",
        ("length", "train", "test", "seed", "validation"), "Random numbers made here", "free.",
        image_size=30, classes=1, train=4_000, test=1_000, channels=2, packages=("numpy", "torch"),
    ),
    Entry(
        "digit_scenes", SEGMENTATION, "digit_scenes", "nsl.data.scenes:load_digit_scenes",
        ("image_size", "train", "test", "seed", "validation"),
        f"Rendered here from the digits. {_DIGITS}", "CC BY 4.0.",
        image_size=32, classes=11, train=1_000, test=200, packages=_SKLEARN,
    ),
)  # fmt: skip

#: The entries by name.
CATALOGUE = {entry.name: entry for entry in _ENTRIES}


def names(kind: str) -> tuple[str, ...]:
    """The sets of a kind."""
    return tuple(entry.name for entry in CATALOGUE.values() if entry.kind == kind)


def title(name: str) -> str:
    """How a set is written; one that is not in the catalogue, as its name."""
    return CATALOGUE[name].title if name in CATALOGUE else name
