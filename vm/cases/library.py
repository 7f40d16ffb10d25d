# SPDX-License-Identifier: MIT OR Apache-2.0
"""The library inside of guests: its own tests on other kernels, and on devices and in states of a machine
that a container cannot have."""

from __future__ import annotations

from lab.bench import Bench
from lab.case import Case, Failure, add, case, check
from lab.library import WORK, Outcome, library_guest, meson_tests, run_suites, run_test
from lab.places import AARCH64, KERNELS

# Emulated processors are slow; the host's own runs are at full scale.
SCALE = 500


def register_suites(kernel: str, suite: str) -> None:
    async def body(bench: Bench) -> None:
        guest = await library_guest(bench, kernel)
        version = await guest.shell('uname -r')
        bench.notes.append(f'Linux {version}')
        await run_suites(bench, guest, (suite,), SCALE, kernel)
        await guest.quit()

    add(Case(f'library/{suite}-on-{kernel}', body, 3600, False, True, 'linux-aio'))


for a_kernel in KERNELS:
    for a_suite in ('c', 'faults'):
        register_suites(a_kernel, a_suite)


def register_short(kernel: str) -> None:
    """What touches most of the kernel's interface, in a minute."""

    async def body(bench: Bench) -> None:
        guest = await library_guest(bench, kernel)
        outcome = Outcome()
        for test in await meson_tests(bench, ('c',), kernel):
            if test['name'].split(' on ')[0] in ('io', 'loop'):
                test['env']['LAIO_TEST_HOSTS'] = 'qemu,builtin'
                await run_test(guest, test, outcome, SCALE)
        await guest.shell(f'truncate -s 16M {WORK}/image && laio-bench --verify --direct -c 500 -d 16 {WORK}/image')
        bench.notes.append(f'{outcome.passed} passed inside, {len(outcome.skipped)} skipped')
        check(not outcome.failed, '\n'.join(outcome.failed))
        await guest.quit()

    add(Case(f'library/short-on-{kernel}', body, 1800, kernel in ('bookworm', 'trixie'), True, 'linux-aio'))


for a_kernel in (*KERNELS, AARCH64):
    register_short(a_kernel)


def register_verify(kind: str) -> None:
    """laio-bench's own verification on a file system of the guest's."""

    async def body(bench: Bench) -> None:
        modules = 'nls_cp437,nls_iso8859_1,nls_ascii' if kind == 'vfat' else ''
        guest = await library_guest(bench, file_system=kind, modules=modules)
        await guest.shell(f'truncate -s 64M {WORK}/image || dd if=/dev/zero of={WORK}/image bs=1M count=64')
        for kernel in ('linux-aio', 'io_uring'):
            for how in ('--direct', ''):
                await guest.shell(
                    f'LAIO_KERNEL={kernel} laio-bench --verify {how} -r -s 16384 -d 16 -c 1000 {WORK}/image'
                )
        await guest.quit()

    add(Case(f'library/verify-on-{kind}', body, 1800, False, True, 'linux-aio'))


for a_kind in ('ext4', 'xfs', 'btrfs', 'f2fs', 'vfat'):
    register_verify(a_kind)


# What nfs-utils would tell the kernel's server, which asks nobody then: who may, what is exported, and which
# handle that is. The flags are insecure, wdelay, no_subtree_check and fsid=0, the root of what NFSv4 exports.
NFS_SERVER = (
    'mount -t nfsd nfsd /proc/fs/nfsd',
    'cd /proc/fs/nfsd && echo -3 +4.2 >versions && echo 10 >nfsv4leasetime && echo 10 >nfsv4gracetime',
    'echo "nfsd 127.0.0.1 2147483647 loop" >/proc/net/rpc/auth.unix.ip/channel',
    f'echo "loop {WORK} 2147483647 9250 65534 65534 0" >/proc/net/rpc/nfsd.export/channel',
    rf"printf 'loop 1 \\x00000000 2147483647 {WORK}\n' >/proc/net/rpc/nfsd.fh/channel",
    'cd /proc/fs/nfsd && echo tcp 2049 >portlist && echo 2 >threads',
)


@case('library/verify-on-nfs', inside=True)
async def verify_on_nfs(bench: Bench) -> None:
    """Over the guest's own loopback, from the kernel's server, with ext4 below."""
    guest = await library_guest(bench, modules='nfsd,nfs,nfsv4')
    for command in (*NFS_SERVER, 'mkdir /nfs', 'mount -i -t nfs4 -o addr=127.0.0.1,vers=4.2,sec=sys 127.0.0.1:/ /nfs'):
        await guest.shell(command)
    await guest.shell('truncate -s 16M /nfs/image')
    for kernel in ('linux-aio', 'io_uring'):
        for how in ('--direct', ''):
            await guest.shell(f'LAIO_KERNEL={kernel} laio-bench --verify {how} -r -s 16384 -d 16 -c 500 /nfs/image')
    there = await guest.shell('md5sum </nfs/image')
    await guest.shell('umount /nfs')
    below = await guest.shell(f'md5sum <{WORK}/image')
    check(there == below, 'it is in the file that was exported')
    await guest.quit()


@case('library/zone-append', short=True, inside=True)
async def zone_append(bench: Bench) -> None:
    guest = await library_guest(bench, file_system='')
    for kernel in ('linux-aio', 'io_uring'):
        await guest.shell(
            'modprobe null_blk nr_devices=1 zoned=1 zone_size=4 gb=1 memory_backed=1 zone_nr_conv=240 bs=4096'
        )
        await guest.shell('until [ -b /dev/nullb0 ]; do sleep 0.1; done')
        output = await guest.shell(f'LAIO_KERNEL={kernel} vm-zones /dev/nullb0')
        check(output.endswith('16 zones'), output)
        await guest.shell('rmmod null_blk')
    await guest.quit()


@case('library/few-contexts', short=True, inside=True)
async def few_contexts(bench: Bench) -> None:
    """With fs.aio-max-nr at 1,024 one state of Linux AIO is too many for some, and AUTO goes elsewhere."""
    guest = await library_guest(bench)
    await guest.shell('sysctl -w fs.aio-max-nr=1024')
    named = await guest.shell(f'LAIO_KERNEL=linux-aio laio-bench -c 10 {WORK}/none 2>&1', status=None)
    check('none' in named, f'a file that is not there is an error: {named}')
    await guest.shell(f'truncate -s 16M {WORK}/image')
    await guest.shell(f'laio-bench --verify -c 500 -d 32 {WORK}/image')
    await guest.shell('sysctl -w fs.aio-max-nr=0')
    refused = await guest.shell(f'LAIO_KERNEL=linux-aio laio-bench -c 10 {WORK}/image 2>&1; echo "status $?"')
    check('fs.aio-max-nr' in refused and 'status 0' not in refused, f'the reason is named: {refused}')
    await guest.shell(f'laio-bench --verify -c 500 -d 32 {WORK}/image')
    await guest.quit()


@case('library/frozen-file-system', short=True, inside=True)
async def frozen(bench: Bench) -> None:
    guest = await library_guest(bench)
    await guest.shell(f'truncate -s 64M {WORK}/image')
    for kernel in ('linux-aio', 'io_uring'):
        command = f'LAIO_KERNEL={kernel} laio-bench --verify --direct -r -d 32 -c 4000 {WORK}/image'
        await guest.shell(f'rm -f /run/done; ({command} >/run/log 2>&1; echo $? >/run/done) >/dev/null 2>&1 &')
        for _ in range(5):
            await guest.shell(f'fsfreeze --freeze {WORK} && sleep 0.3 && fsfreeze --unfreeze {WORK}')
        await guest.shell('until [ -e /run/done ]; do sleep 0.1; done')
        status = await guest.shell('cat /run/done')
        if status != '0':
            raise Failure(await guest.shell('cat /run/log'))
    await guest.quit()


@case('library/low-memory', inside=True)
async def low_memory(bench: Bench) -> None:
    """Four times the memory that is left, buffered, with 30 MiB to do it in."""
    guest = await library_guest(bench)
    await guest.shell(f'truncate -s 256M {WORK}/image')
    await guest.shell('mount -t tmpfs -o size=90% hog /tmp')
    free = int(await guest.shell("awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo"))
    await guest.shell(f'dd if=/dev/urandom of=/tmp/hog bs=1M count={free - 40}')
    for kernel in ('linux-aio', 'io_uring'):
        await guest.shell(f'LAIO_KERNEL={kernel} laio-bench --verify -s 65536 -d 16 -c 4000 {WORK}/image')
    await guest.quit()


DEVICES = {
    # What makes the device, and its name.
    'dm-delay': ('echo "0 131072 delay /dev/vda 0 20" | dmsetup create --noudevsync slow', '/dev/dm-0'),
    'scsi-4k-sectors': ('modprobe scsi_debug dev_size_mb=64 sector_size=4096 && sleep 1', '/dev/sda'),
}


def register_device(name: str, setup: str, device: str) -> None:
    async def body(bench: Bench) -> None:
        guest = await library_guest(bench, file_system='', modules='dm_mod,dm_delay,sd_mod')
        await guest.shell(setup)
        await guest.shell(f'until [ -b {device} ]; do sleep 0.1; done')
        for kernel in ('linux-aio', 'io_uring'):
            await guest.shell(f'LAIO_KERNEL={kernel} laio-bench --verify --yes --direct -r -d 16 -c 500 {device}')
        await guest.quit()

    add(Case(f'library/{name}', body, 1800, False, True, 'linux-aio'))


for a_name, (a_setup, a_device) in DEVICES.items():
    register_device(a_name, a_setup, a_device)


@case('library/dm-error', inside=True)
async def dm_error(bench: Bench) -> None:
    """Half of the device fails: that is told, and the other half works."""
    guest = await library_guest(bench, file_system='', modules='dm_mod')
    table = '0 65536 linear /dev/vda 0\\n65536 65536 error'
    await guest.shell(f'printf "{table}\\n" | dmsetup create --noudevsync half')
    for kernel in ('linux-aio', 'io_uring'):
        output = await guest.shell(
            f'LAIO_KERNEL={kernel} laio-bench --direct -d 16 -c 16384 -s 4096 /dev/dm-0 2>&1; echo "status $?"'
        )
        check('status 0' not in output and 'nput/output error' in output, f'the error is told: {output}')
    await guest.shell(
        'dmsetup remove --noudevsync half; echo "0 65536 linear /dev/vda 0" | dmsetup create --noudevsync half'
    )
    await guest.shell('laio-bench --verify --yes --direct -d 16 -c 500 /dev/dm-0')
    await guest.quit()
