# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where the things are that cases use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .case import Skip

NEWEST = 'sid'
# The Debian suites whose kernels boot here, oldest first.
KERNELS = ('bullseye', 'bookworm', 'trixie', NEWEST)
# What boots where a case has no reason for another: the first of these that could be fetched.
USUAL_KERNELS = ('trixie', 'bookworm', NEWEST, 'bullseye')
# A kernel for another processor; the rest of its machine is in bench.py.
AARCH64 = 'aarch64'


@dataclass(frozen=True)
class Places:
    """`root` is what tools/check-vm.sh fills (build/vm)."""

    root: Path
    engine: str  # 'laio', or 'own' for QEMU's own

    @property
    def build(self) -> Path:
        return self.root / ('qemu' if self.engine == 'laio' else 'qemu-own') / 'build'

    @property
    def emulator(self) -> Path:
        return self.build / 'qemu-system-x86_64'

    @property
    def emulator_aarch64(self) -> Path:
        """Debian's: what is under test there is inside of the guest."""
        return self.root / 'emulator-aarch64/usr/bin/qemu-system-aarch64'

    @property
    def libraries_aarch64(self) -> str:
        """What that emulator is linked to."""
        root = self.root / 'emulator-aarch64'
        return f'{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu'

    @property
    def image_tool(self) -> Path:
        return self.build / 'qemu-img'

    @property
    def firmware(self) -> Path:
        return self.root / 'firmware'

    @property
    def project(self) -> Path:
        return Path(__file__).resolve().parent.parent.parent

    def programs(self, kernel: str | None = None) -> Path:
        """Meson's build directory, with the library and its tests, for the processor of that kernel."""
        return self.root / AARCH64 if kernel == AARCH64 else self.root.parent

    def library(self, kernel: str | None = None) -> Path:
        """What these are in for a guest."""
        return self.root / ('library-aarch64.cpio' if kernel == AARCH64 else 'library.cpio')

    def guest(self, kernel: str | None = None) -> Path:
        """What boots the kernel of that suite, or the usual one."""
        for suite in [kernel] if kernel else USUAL_KERNELS:
            if (self.root / f'guest-{suite}/initramfs').exists():
                return self.root / f'guest-{suite}'
        raise Skip(f'the kernel of {kernel or "any suite"} could not be fetched')
