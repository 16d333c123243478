"""Image sets too large for memory: prepared copies of tensorflow-datasets (TFDS), opened to be streamed."""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wsn.data.cache import digest_of
from wsn.data.crops import CROP
from wsn.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from wsn.data.prepared import check_features, data_folder, ends_of_file, unreadable
from wsn.data.stream import Records, Stream
from wsn.data.untrusted import check_copy
from wsn.errors import UserError
from wsn.machine import usable_cores


@dataclasses.dataclass(frozen=True)
class Images:
    """A set that tensorflow-datasets (TFDS) prepared as array_record; reading it does not need TensorFlow.

    Attributes:
      name: `name:version`, or `name/config:version`. The version is pinned so that a result identifies its data.
      classes: number of classes.
      image, label: the features to read.
      train, test: the splits to read, in the notation of TFDS, such as `train[:1%]`.
      flip: whether half of the training images are flipped.
      mean, std: of the channels, where white is 1.
    """

    name: str
    classes: int
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str = "validation"
    flip: bool = True
    input_shape: ClassVar[tuple[int, int, int]] = (CROP, CROP, 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def open(self, data_dir: str | None = None, threads: int | None = None) -> Stream:
        """Opens the files; reads no image yet.

        Args:
          data_dir: folder of tensorflow-datasets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
          threads: number of decoding threads; default one for each core that this process may use.

        Raises:
          UserError: the set is missing, or is not an array_record copy with these splits and classes.
        """
        folder = data_folder(data_dir)
        where = f"`data_dir={folder}` (TFDS_DATA_DIR)"
        prepared = Path(folder, self.name.replace(":", os.sep))
        how = (
            f"with archives that need a login in {folder}/downloads/manual and after pip install -e '.[download]', "
            f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{self.name}', data_dir='{folder}', "
            "file_format='array_record').download_and_prepare()\""
        )
        if not os.path.exists(prepared / "dataset_info.json"):
            raise UserError(
                f"{where}: no prepared copy of {self.name}; point `data_dir` at one or make it: {how}"
            )
        try:
            train, test = self._sources(prepared)
            files = [ends_of_file(p) for p in sorted(prepared.iterdir()) if p.name[0] != "."]  # as of macOS
        except Exception as error:  # TFDS and array_record each raise their own kinds
            raise unreadable(f"{self.name} ({self.train}, {self.test})", folder, error) from error
        records = partial(
            Records,
            image=self.image,
            label=self.label,
            classes=self.classes,
            where=f"{where}, {self.name}",
        )
        mean, std = (
            np.float32(255) * np.array(x, np.float32).reshape(1, 1, 3) for x in (self.mean, self.std)
        )
        return Stream(
            self.classes,
            records(train, split=self.train),
            records(test, split=self.test),
            mean,
            std,
            threads or usable_cores(),
            self.flip,
            digest_of([dataclasses.astuple(self), files]),
        )

    def _sources(self, prepared: Path) -> tuple[Any, Any]:
        import tensorflow_datasets as tfds

        check_copy(prepared)
        builder = tfds.builder_from_directory(os.fspath(prepared))
        check_features(builder.info.features, self)
        allow_open_files(sum(split.num_shards for split in builder.info.splits.values()))
        encoded = {self.image: tfds.decode.SkipDecoding()}
        return tuple(builder.as_data_source(split, decoders=encoded) for split in (self.train, self.test))


STREAMS = {"imagenet2012": Images("imagenet2012:5.1.0", classes=1000)}


def allow_open_files(count: int) -> None:
    """Raises the limit of open files by `count`, as far as the system permits.

    array_record keeps every shard open: the 1024 of ImageNet alone reach the usual limit.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count if hard == resource.RLIM_INFINITY else min(hard, soft + count)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
