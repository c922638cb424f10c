//! Where libxenctrl is.

use std::fs;
use std::path::Path;

use libloading::Library;

/// libxenctrl can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// This isn't a domain on Xen, or sysfs is not mounted.
    #[error(
        "/sys/hypervisor/version can't be read ({0}): is this dom0, started by Xen, with sysfs mounted?"
    )]
    NoXen(std::io::Error),
    /// None of the places has it.
    #[error(
        "libxenctrl for Xen {version} can't be loaded, install its xen-utils: {reasons}"
    )]
    NotFound {
        /// The running Xen.
        version: String,
        /// What each place had to say.
        reasons: String,
    },
    /// It lacks a function.
    #[error("libxenctrl of this Xen lacks a function: {0}")]
    Symbol(#[from] libloading::Error),
    /// It can't be used.
    #[error("xc_interface_open failed: {0}: is this dom0, and are you root?")]
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
pub(super) fn running_version() -> Result<String, Missing> {
    let directory = Path::new("/sys/hypervisor/version");
    let read = |file| fs::read_to_string(directory.join(file)).map_err(Missing::NoXen);
    Ok(format!("{}.{}", read("major")?.trim(), read("minor")?.trim()))
}

/// Opens libxenctrl of the running Xen.
pub(super) fn open() -> Result<Library, Missing> {
    let version = running_version()?;
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
