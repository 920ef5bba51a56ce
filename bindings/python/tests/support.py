"""A tensor of another library, and where arrays lie."""

from __future__ import annotations


class Foreign:
    """A tensor of another library: DLPack and nothing else. old: from before DLPack 1.0."""

    def __init__(self, array, *, old=False, device=1):
        self.array, self.old, self.device, self.lent = array, old, device, 0

    def __dlpack__(self, **request):
        if self.old and request:
            raise TypeError("unexpected keyword argument 'max_version'")
        capsule = self.array.__dlpack__(**request)
        self.lent += 1
        return capsule

    def __dlpack_device__(self):
        return (self.device, 0)


def address(array):
    return array.__array_interface__["data"][0]
