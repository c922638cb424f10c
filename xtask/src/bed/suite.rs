//! The table of Debian releases the bed can run, and what differs between them.

use anyhow::{Context, Result};

/// One Debian release with its Xen.
#[derive(Debug)]
pub(crate) struct Suite {
    /// The release's code name, as mirrors know it.
    pub(crate) name: &'static str,
    /// The version in Xen's package and folder names.
    pub(crate) xen: &'static str,
}

const SUITES: &[Suite] =
    &[Suite { name: "bookworm", xen: "4.17" }, Suite { name: "trixie", xen: "4.20" }];

impl Suite {
    /// The names of all suites there are.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        SUITES.iter().map(|suite| suite.name)
    }

    /// Finds a suite by name.
    pub(crate) fn find(name: &str) -> Result<&'static Self> {
        SUITES.iter().find(|suite| suite.name == name).with_context(|| {
            let known: Vec<_> = Self::names().collect();
            format!("no suite is called {name}; there are: {}", known.join(", "))
        })
    }

    /// The packages whose files make dom0 and the guests.
    pub(crate) fn packages(&self) -> Vec<String> {
        let mut packages = vec![
            format!("xen-utils-{}", self.xen),
            format!("xen-hypervisor-{}-amd64", self.xen),
        ];
        packages.extend(
            [
                "xenstore-utils",
                "linux-image-amd64",
                "busybox-static",
                "pciutils",
                // Rust programs that use the C library need it for unwinding.
                "libgcc-s1",
                "strace",
            ]
            .map(str::to_owned),
        );
        packages
    }

    /// Xen's own programs, inside the root file system.
    pub(crate) fn xen_bin(&self) -> String {
        format!("usr/lib/xen-{}/bin", self.xen)
    }

    /// The hypervisor, still compressed.
    pub(crate) fn hypervisor(&self) -> String {
        format!("boot/xen-{}-amd64.gz", self.xen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_suite_names_the_known_ones() {
        assert_eq!(Suite::find("bookworm").unwrap().xen, "4.17");
        let error = Suite::find("sid").unwrap_err().to_string();
        assert!(error.contains("bookworm, trixie"), "{error}");
    }
}
