"""What a calibration is, and its file."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speckv_model.codec import CODECS
from speckv_model.constants import Codec

from ..formats import CodecFormat


@dataclass(frozen=True)
class Calibration:
    """What each stream of a model is stored as.

    Parameters
    ----------
    streams : nested tuples of (codec name, setting)
        (layers, kv_heads, 2), K first; as `Device.load_descriptors` takes it.
    dtype : str
        ``float16`` or ``bfloat16``: of the values that it was made with.
    ratio : float
        Bytes of K and V to bytes of sectors and page table entries, on the values that it was made with.
    provenance : dict
        What it was made from: ``source``, ``tokens``, ``wanted_ratio``, and digests.
    """

    streams: tuple
    dtype: str
    ratio: float
    provenance: dict = field(default_factory=dict)

    def save(self, path):
        """Writes it as JSON, a layer a line."""
        about = json.dumps({"dtype": self.dtype, "ratio": self.ratio, "provenance": self.provenance}, indent=1)
        layers = ",\n  ".join(map(json.dumps, self.streams))
        Path(path).write_text(f'{about[:-2]},\n "streams": [\n  {layers}\n ]\n}}\n')

    @classmethod
    def load(cls, path):
        """Raises `ValueError` where the file at `path` does not hold a calibration."""
        try:
            found = json.loads(Path(path).read_text())
            streams = tuple(tuple(tuple((str(codec), int(setting)) for codec, setting in head) for head in layer)
                            for layer in found["streams"])
            calibration = cls(streams, found["dtype"], float(found["ratio"]), found["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold a calibration as `speckv calibrate` writes it: {error!r}") from None
        for codec, setting in (stream for layer in streams for head in layer for stream in head):
            if codec not in {known.name.lower() for known in CODECS}:
                raise ValueError(f"{path} must name codecs that exist, not {codec!r}")
            if setting not in CODECS[Codec[codec.upper()]].SETTINGS:
                raise ValueError(f"{path} must have settings that {codec} takes, not {setting!r}")
        return calibration

    def format(self, setting=None):
        """It as a `CodecFormat`, under the name of its codec, or ``mixed``, and `setting` (str)."""
        form = CodecFormat("mixed", setting or f"calibrated {self.provenance.get('wanted_ratio')}", self.streams)
        codecs = form.codecs
        return form if len(codecs) > 1 else dataclasses.replace(form, name=codecs.pop())


def model_provenance(folder, windows):
    """What a calibration with the model in `folder` on `windows` was made from."""
    whole = hashlib.sha256()
    for window in windows:
        whole.update(np.ascontiguousarray(window, "<u4"))
    weights = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]
    return {"source": "language model", "model_digest": weights, "tokens": sum(map(len, windows)),
            "tokens_digest": whole.hexdigest()[:16]}


def samples_provenance(path, keys):
    """What a calibration on the values of the file at `path` was made from."""
    return {"source": "samples", "samples_digest": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16],
            "tokens": int(np.shape(keys[0])[0])}
