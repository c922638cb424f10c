//! Where libxenctrl is.

use std::fs;
use std::path::Path;

use libloading::{Library, Symbol};

/// The oldest and the newest Xen whose libxenctrl was seen to fit, by minor number.
const KNOWN: (u32, u32) = (17, 20);
const OLDEST: &str = "4.17";
const NEWEST: &str = "4.20";

/// Where Linux says which Xen it runs on.
const VERSION: &str = "/sys/hypervisor/version";

/// libxenctrl can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// This isn't a domain on Xen, or sysfs is not mounted.
    #[error(
        "/sys/hypervisor/version can't be read ({0}): run pcidomctl daemon in dom0, with Xen \
         booted and sysfs mounted"
    )]
    NoXen(std::io::Error),
    /// None of the places has it.
    #[error(
        "libxenctrl of Xen {version} can't be loaded: install the Xen tools of the Xen that \
         runs (apt install xen-utils-{version} on Debian), or boot the Xen they belong to: \
         {reasons}"
    )]
    NotFound {
        /// The running Xen.
        version: String,
        /// What each place had to say.
        reasons: String,
    },
    /// It lacks a function.
    #[error(
        "libxenctrl of this Xen lacks {0}, which pcidomctl needs: it knows Xen \
         {OLDEST} to {NEWEST}; run one of those, or a pcidomctl that knows yours"
    )]
    Symbol(&'static str),
    /// It can't be used.
    #[error("xc_interface_open failed ({0}): run pcidomctl daemon in dom0, as root")]
    Open(std::io::Error),
}

/// The names to try for this version, the loader's own way (`LD_LIBRARY_PATH`, ld.so.conf)
/// first, then where Debian keeps the libraries that belong to one version, then where
/// a Xen built from source goes.
pub fn candidates(version: &str) -> Vec<String> {
    let name = format!("libxenctrl.so.{version}");
    let places = [
        format!("/usr/lib/xen-{version}/lib/x86_64-linux-gnu"),
        format!("/usr/lib/xen-{version}/lib"),
        "/usr/lib/x86_64-linux-gnu".into(),
        "/usr/lib64".into(),
        "/usr/local/lib".into(),
    ];
    let full = places.iter().map(|place| format!("{place}/{name}"));
    [name.clone()].into_iter().chain(full).collect()
}

/// `major.minor` of the running Xen.
fn running_version(directory: &Path) -> Result<String, Missing> {
    let read = |file| fs::read_to_string(directory.join(file)).map_err(Missing::NoXen);
    Ok(format!("{}.{}", read("major")?.trim(), read("minor")?.trim()))
}

/// Whether this is a Xen whose libxenctrl was seen to fit.
fn is_known(version: &str) -> bool {
    let minor = version.strip_prefix("4.").and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor| (KNOWN.0..=KNOWN.1).contains(&minor))
}

/// Looks a function up. `T` must be the pointer type of that function.
pub(super) fn find<T: Copy>(library: &Library, name: &'static str) -> Result<T, Missing> {
    // SAFETY: every caller is in `Xenctrl::open` and names, for each function, the type
    // that xenctrl.h declares it with (checked against 4.17 and 4.20).
    let symbol: Result<Symbol<'_, T>, _> = unsafe { library.get(name) };
    symbol.map(|symbol| *symbol).map_err(|_| Missing::Symbol(name))
}

/// Opens libxenctrl of the running Xen.
pub(super) fn open() -> Result<Library, Missing> {
    let version = running_version(Path::new(VERSION))?;
    if !is_known(&version) {
        log::warn!(
            "pcidomctl knows Xen {OLDEST} to {NEWEST}, and this is {version}: should a call to \
             Xen fail, look for a newer pcidomctl"
        );
    }
    open_version(version)
}

fn open_version(version: String) -> Result<Library, Missing> {
    let mut reasons = Vec::new();
    for name in candidates(&version) {
        // SAFETY: loading a library runs its initialisers. This is Xen's own library, found
        // where only root can put files (or where root's environment points), and it has
        // no initialiser that expects anything of us.
        match unsafe { Library::new(&name) } {
            Ok(library) => {
                log::debug!("libxenctrl: {name}");
                return Ok(library);
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Missing::NotFound { version, reasons: reasons.join("; ") })
}

#[cfg(test)]
mod tests {
    use libloading::Library;

    use super::{KNOWN, NEWEST, OLDEST, find, is_known, open_version, running_version};

    #[test]
    fn the_versions_that_fit_are_known() {
        let all: Vec<String> = (KNOWN.0..=KNOWN.1).map(|n| format!("4.{n}")).collect();
        assert!(all.iter().all(|version| is_known(version)));
        assert_eq!((all[0].as_str(), all[3].as_str()), (OLDEST, NEWEST));
        for version in ["4.16", "4.21", "5.18", "4", "nonsense"] {
            assert!(!is_known(version), "{version}");
        }
    }

    #[test]
    fn where_there_is_no_xen_one_is_told_to_boot_it() {
        let directory = tempfile::tempdir().unwrap();
        let text = running_version(directory.path()).unwrap_err().to_string();
        assert!(text.contains("/sys/hypervisor/version can't be read"), "{text}");
        assert!(
            text.contains(
                "run pcidomctl daemon in dom0, with Xen booted and sysfs mounted"
            ),
            "{text}"
        );
        std::fs::write(directory.path().join("major"), "4\n").unwrap();
        std::fs::write(directory.path().join("minor"), "17\n").unwrap();
        assert_eq!(running_version(directory.path()).unwrap(), "4.17");
    }

    #[test]
    fn a_missing_library_names_its_version_and_what_to_install() {
        let error = open_version("4.99".into()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("libxenctrl of Xen 4.99"), "{text}");
        assert!(text.contains("apt install xen-utils-4.99"), "{text}");
    }

    #[test]
    fn a_library_that_lacks_a_function_names_it_and_the_versions_that_have_it() {
        // SAFETY: the C library is loaded already.
        let other = unsafe { Library::new("libc.so.6") }.unwrap();
        let found = find::<unsafe extern "C" fn()>(&other, "xc_interface_open");
        let text = found.unwrap_err().to_string();
        assert!(text.contains("xc_interface_open"), "{text}");
        assert!(text.contains("4.17 to 4.20"), "{text}");
    }
}
