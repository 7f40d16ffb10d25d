# SPDX-License-Identifier: MIT OR Apache-2.0
"""The cases, a file for each theme. Who imports this has them all."""

from . import devices, errors, images, jobs, library, machine, power

__all__ = ['devices', 'errors', 'images', 'jobs', 'library', 'machine', 'power']
