"""Writing and reading GGUF version 3, as far as this folder needs it: F32 and Q8_0 tensors, little endian.
Source: the GGUF specification.  Shapes are numpy shapes here; the file lists them innermost first."""
import struct

import numpy as np

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, Q8_0 = 0, 8
ALIGNMENT = 32
SCALARS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}


def string(s):
    raw = s.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    """Bytes of one metadata value, its type tag included.  `kind` is a scalar type, STRING, or [element type]."""
    if isinstance(kind, list):
        head = struct.pack("<IIQ", ARRAY, kind[0], len(v))
        return head + b"".join(string(x) if kind[0] == STRING else struct.pack(SCALARS[kind[0]], x) for x in v)
    return struct.pack("<I", kind) + (string(v) if kind == STRING else struct.pack(SCALARS[kind], v))


def quantise_q8_0(x):
    """Blocks of 32 numbers of a row: one f16 scale d = max|x| / 127, then 32 signed bytes."""
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, 32)
    d = (np.abs(blocks).max(1) / 127).astype(np.float16)
    inverse = np.divide(1.0, d, out=np.zeros(d.shape, np.float32), where=d != 0, dtype=np.float32)
    out = np.empty(len(blocks), [("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = d, np.rint(blocks * inverse[:, None]).clip(-127, 127)
    return out.tobytes()


def dequantise_q8_0(raw):
    blocks = np.frombuffer(raw, [("d", "<f2"), ("q", "i1", 32)])
    return (blocks["q"].astype(np.float32) * blocks["d"].astype(np.float32)[:, None]).ravel()


class Writer:
    def __init__(self):
        self.meta, self.infos, self.data, self.offset = [], [], [], 0

    def set(self, key, kind, v):
        self.meta.append(string(key) + value(kind, v))

    def tensor(self, name, array, kind):
        array = np.ascontiguousarray(array, np.float32)
        assert kind == F32 or array.shape[-1] % 32 == 0, name
        raw = array.astype("<f4").tobytes() if kind == F32 else quantise_q8_0(array)
        self.infos.append(string(name) + struct.pack("<I", array.ndim)
                          + b"".join(struct.pack("<Q", n) for n in reversed(array.shape))
                          + struct.pack("<IQ", kind, self.offset))
        raw += bytes(-len(raw) % ALIGNMENT)
        self.data.append(raw)
        self.offset += len(raw)

    def write(self, path):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.infos), len(self.meta))
        head += b"".join(self.meta) + b"".join(self.infos)
        with open(path, "wb") as f:
            f.write(head + bytes(-len(head) % ALIGNMENT))
            f.writelines(self.data)


class Reader:
    """The metadata as a dict and the tensors as float32 arrays."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.raw = f.read()
        assert self.raw[:4] == b"GGUF"
        self.at = 4
        version, n_tensors, n_meta = self._take("<IQQ")
        assert version == 3
        self.meta = {}
        for _ in range(n_meta):
            key = self._string()
            self.meta[key] = self._value(self._take("<I")[0])
        infos = [self._info() for _ in range(n_tensors)]
        base = self.at + -self.at % ALIGNMENT
        self.kinds = {name: kind for name, _, kind, _ in infos}
        self.tensors = {name: self._tensor(shape, kind, base + at) for name, shape, kind, at in infos}

    def _take(self, form):
        v = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return v

    def _string(self):
        n = self._take("<Q")[0]
        self.at += n
        return self.raw[self.at - n:self.at].decode("utf-8")

    def _value(self, kind):
        if kind == ARRAY:
            element, n = self._take("<IQ")
            return [self._value(element) for _ in range(n)]
        return self._string() if kind == STRING else self._take(SCALARS[kind])[0]

    def _info(self):
        name = self._string()
        shape = [self._take("<Q")[0] for _ in range(self._take("<I")[0])]
        kind, offset = self._take("<IQ")
        return name, shape[::-1], kind, offset

    def _tensor(self, shape, kind, at):
        n = int(np.prod(shape))
        if kind == F32:
            return np.frombuffer(self.raw, "<f4", n, at).reshape(shape)
        assert kind == Q8_0
        return dequantise_q8_0(self.raw[at:at + n // 32 * 34]).reshape(shape)
