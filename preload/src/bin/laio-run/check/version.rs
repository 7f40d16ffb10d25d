// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which releases of QEMU recurse. A distribution may have brought a fix back, or a change forward, under
//! the same number.

/// Major, minor, and the rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(u32, u32, u32);

/// How its requests get to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aio {
    Native,
    IoUring,
}

impl Aio {
    /// As it stands behind `aio=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::IoUring => "io_uring",
        }
    }
}

/// Completions begin and end a deferred section, whose end submits.
const FIRST: Version = Version(8, 2, 0);
/// The depth bound of aio=native, on the stable branch (until the development of the next release) and in
/// a release.
const BOUND_STABLE: std::ops::Range<Version> = Version(10, 0, 13)..Version(10, 0, 50);
const BOUND: Version = Version(11, 1, 0);
/// Requests of aio=io_uring go through the event loop's own ring.
const LOOPS_RING: Version = Version(10, 2, 0);

impl Version {
    /// Of what `--version` prints: "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)".
    pub fn of_line(line: &str) -> Option<Self> {
        let number =
            package_of_line(line)?.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return None };
        let Some(Ok(rest)) = parts.next() else { return Some(Self(major, minor, 0)) };
        Some(Self(major, minor, rest))
    }

    /// Why this release recurses, or why not.
    pub fn recurses(self, aio: Aio) -> Result<&'static str, &'static str> {
        match aio {
            _ if self < FIRST => Err("releases before 8.2 do not recurse"),
            Aio::Native if self >= BOUND || BOUND_STABLE.contains(&self) => {
                Err("10.0.13, 11.1 and what follows them have a bound")
            }
            Aio::Native => Ok("releases from 8.2 on do, until 10.0.13 and 11.1"),
            Aio::IoUring if self >= LOOPS_RING => Err("releases from 10.2 on do not recurse"),
            Aio::IoUring => Ok("releases from 8.2 to 10.1 do"),
        }
    }
}

/// The version with all that a distribution adds, by which its programs know each other.
pub fn package_of_line(line: &str) -> Option<&str> {
    let is_number = |&start: &usize| line[start..].starts_with(|c: char| c.is_ascii_digit());
    let start = line.match_indices(' ').map(|(space, _)| space + 1).find(is_number)?;
    Some(line[start..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurses(number: &str) -> (bool, bool) {
        let version = Version::of_line(&format!("qemu-img version {number}")).unwrap();
        (version.recurses(Aio::Native).is_ok(), version.recurses(Aio::IoUring).is_ok())
    }

    #[test]
    fn each_release_is_on_its_side() {
        for number in ["2.12.0", "7.2.22", "8.0.5", "8.1.50", "10.2.50", "11.1.0", "12.0.0"] {
            let native = number == "10.2.50"; // On the way to 11.0.
            assert_eq!(recurses(number), (native, false), "{number}");
        }
        for number in
            ["8.2.0", "8.2.10", "9.0.0", "9.2.4", "10.0.0", "10.0.12", "10.0.50", "10.1.3"]
        {
            assert_eq!(recurses(number), (true, true), "{number}");
        }
        assert_eq!(recurses("10.0.13"), (false, true));
        for number in ["10.2.0", "10.2.2", "11.0.0", "11.0.2"] {
            assert_eq!(recurses(number), (true, false), "{number}");
        }
    }

    #[test]
    fn a_version_is_found_in_what_distributions_print() {
        let of = Version::of_line;
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)\n";
        assert_eq!(of(debian), Some(Version(10, 0, 2)));
        assert_eq!(package_of_line(debian), Some("10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)"));
        assert_eq!(
            of("QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-15.el9)"),
            Some(Version(9, 1, 0))
        );
        assert_eq!(of("qemu-nbd 7.2.22 (Debian 1:7.2)"), Some(Version(7, 2, 22)));
        assert_eq!(of("qemu-img version 11.0"), Some(Version(11, 0, 0)));
        assert_eq!(of("qemu-img version 9.0.0-rc1"), Some(Version(9, 0, 0)));
        assert_eq!(of("qemu-img version unknown"), None);
        assert_eq!(of(""), None);
    }
}
