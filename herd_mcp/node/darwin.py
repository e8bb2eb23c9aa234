"""What only macOS can be asked, through its own libraries: no process is started for a question that comes each second.

Not run on a Mac. Layouts and numbers are those of Apple's headers (mach/vm_statistics.h, mach/host_info.h,
sys/resource.h); taking buffers apart is tested on any system. Every question raises OSError where none answers.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Any

LEVEL = "kern.memorystatus_vm_pressure_level"
"""1 normal, 2 warning, 4 critical."""
HOST_VM_INFO64 = 4
VM_STATISTICS64 = struct.Struct("<4I9Q2I4Q4IQ")
SWAPOUTS = 18
"""The place of swapouts in VM_STATISTICS64."""
RUSAGE_INFO_V0 = 0
RUSAGE = struct.Struct("<16s10Q")
FOOTPRINT = 8
"""The place of ri_phys_footprint in RUSAGE."""


def swapouts_of(buffer: bytes) -> int:
    """Pages, from a `vm_statistics64`: written to swap since the Mac's start."""
    return int(VM_STATISTICS64.unpack(buffer[: VM_STATISTICS64.size])[SWAPOUTS])


def footprint_of(buffer: bytes) -> int:
    """Bytes, from a `rusage_info_v0`: what the process is charged with, with Metal's buffers and compressed pages."""
    return int(RUSAGE.unpack(buffer[: RUSAGE.size])[FOOTPRINT])


@cache
def _system() -> Any:
    return ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True)


@cache
def _host() -> Any:
    """This process's name for the Mac; each call of mach_host_self would make another reference."""
    _system().mach_host_self.restype = ctypes.c_uint
    return ctypes.c_uint(_system().mach_host_self())


def pressure_level() -> int:
    """How short of memory the kernel says it is, as `LEVEL`."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    if _system().sysctlbyname(LEVEL.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        raise OSError(ctypes.get_errno(), LEVEL)
    return value.value


def swapouts() -> int:
    """Pages written to swap since the Mac's start."""
    buffer = ctypes.create_string_buffer(VM_STATISTICS64.size)
    count = ctypes.c_uint(VM_STATISTICS64.size // 4)
    if error := _system().host_statistics64(_host(), HOST_VM_INFO64, buffer, ctypes.byref(count)):
        raise OSError(error, "host_statistics64")
    return swapouts_of(buffer.raw)


def footprint(pid: int) -> int:
    """What one process of this user holds, in bytes."""
    buffer = ctypes.create_string_buffer(RUSAGE.size)
    if _system().proc_pid_rusage(pid, RUSAGE_INFO_V0, buffer):
        raise OSError(ctypes.get_errno(), "proc_pid_rusage")
    return footprint_of(buffer.raw)


THERMAL = "com.apple.system.thermalpressurelevel"
"""kOSThermalNotificationPressureLevelName of libkern/OSThermalNotification.h; on macOS 0 nominal, 1 moderate, 2 heavy,
3 trapping, 4 sleeping."""


@cache
def _thermal_token() -> Any:
    """This process's registration, made once. It gets no messages; it only lets the level be asked for."""
    token = ctypes.c_int(0)
    if status := _system().notify_register_check(THERMAL.encode(), ctypes.byref(token)):
        raise OSError(status, "notify_register_check")
    return token


def thermal_level() -> int:
    """How hot the Mac runs, by the system's own level."""
    level = ctypes.c_uint64(0)
    if status := _system().notify_get_state(_thermal_token(), ctypes.byref(level)):
        raise OSError(status, "notify_get_state")
    return level.value
