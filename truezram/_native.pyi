"""The cffi extension (native/python/_native.cdef). Its values are cffi's, without static types."""

from typing import Any

ffi: Any
lib: Any
