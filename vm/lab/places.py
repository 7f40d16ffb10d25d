# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where the things are that cases use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NEWEST = 'sid'
# The Debian suites whose kernels boot here, oldest first, and the one that cases use without a reason
# for another.
KERNELS = ('bullseye', 'bookworm', 'trixie', NEWEST)
USUAL_KERNEL = 'trixie'


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
    def image_tool(self) -> Path:
        return self.build / 'qemu-img'

    @property
    def firmware(self) -> Path:
        return self.root / 'firmware'

    @property
    def project(self) -> Path:
        return Path(__file__).resolve().parent.parent.parent

    def guest(self, kernel: str) -> Path:
        return self.root / f'guest-{kernel}'
