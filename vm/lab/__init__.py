# SPDX-License-Identifier: MIT OR Apache-2.0
"""A laboratory of virtual machines: what boots guests, drives them, and runs the cases."""
