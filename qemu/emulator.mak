# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The devices of the emulator that qemu/build.sh --emulator builds: two boards, every kind of disk, and
# what a guest needs to boot and to talk.
CONFIG_I440FX=y
CONFIG_Q35=y
CONFIG_PCIE_PORT=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SCSI=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_RNG=y
CONFIG_NVME_PCI=y
CONFIG_IDE_PIIX=y
CONFIG_AHCI_ICH9=y
CONFIG_ISA_DEBUG=y
