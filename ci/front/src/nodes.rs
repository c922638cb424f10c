//! XenStore, one request at a time. Paths may be relative to the domain's own.

use alloc::string::{String, ToString};

use pcidom_xenbus::wire::{Kind, Message, encode};

use crate::xen::Xen;

/// What a node holds; `None` if it isn't there or isn't ours to see.
pub(crate) fn read(xen: &mut Xen, path: &str) -> Option<String> {
    let answer = request(xen, Kind::Read, &[path.as_bytes(), b"\0"]).ok()?;
    String::from_utf8(answer.payload).ok()
}

/// Writes a node.
pub(crate) fn write(xen: &mut Xen, path: &str, value: &str) -> Result<(), String> {
    request(xen, Kind::Write, &[path.as_bytes(), b"\0", value.as_bytes()])
        .map(drop)
        .map_err(|error| alloc::format!("cannot write {path}: {error}"))
}

/// Removes a node, and all below it.
pub(crate) fn remove(xen: &mut Xen, path: &str) -> Result<(), String> {
    request(xen, Kind::Remove, &[path.as_bytes(), b"\0"]).map(drop)
}

/// Waits until a node holds, or does not hold, what is wanted.
pub(crate) fn wait_until(
    xen: &mut Xen,
    path: &str,
    wanted: impl Fn(Option<&str>) -> bool,
) {
    let watch = [path.as_bytes(), b"\0", b"wait", b"\0"];
    // Without the watch, whatever moves the ring next is as good a reason to look.
    let _ = request(xen, Kind::Watch, &watch);
    while !wanted(read(xen, path).as_deref()) {
        // A change after the answer was made is still in the ring: this does not miss it.
        while xen.store.receive().is_none() {
            xen.sleep(None);
        }
    }
    let _ = request(xen, Kind::Unwatch, &watch);
}

/// The answer to one request, or XenStore's word for the error.
fn request(xen: &mut Xen, kind: Kind, parts: &[&[u8]]) -> Result<Message, String> {
    xen.requests = xen.requests.wrapping_add(1);
    let number = xen.requests;
    let message = encode(kind, number, 0, parts).ok_or("too long")?;
    // One request is in flight at most, so there is room.
    if !xen.store.send(&message) {
        return Err("not sent".into());
    }
    loop {
        let Some(bytes) = xen.store.receive() else {
            xen.sleep(None);
            continue;
        };
        // Watches fire in between; who waits for one looks at the node first.
        let Some(answer) = Message::decode(&bytes).filter(|a| a.request == number) else {
            continue;
        };
        return match answer.kind {
            Some(Kind::WatchEvent) => continue,
            Some(Kind::Error) => {
                Err(answer.strings().first().map_or("?", String::as_str).to_string())
            }
            _ => Ok(answer),
        };
    }
}
