//! What libxl wrote down when it created a guest, as far as it tells whether a device can
//! be lent to it.

use serde_json::Value;

fn parse(record: &str) -> Option<Value> {
    // libxl writes the string with its end.
    serde_json::from_str(record.trim_end_matches('\0')).ok()
}

/// The line interrupts that `irqs=` gives a guest, whose pirqs have the same numbers.
pub(super) fn line_pirqs(record: &str) -> Vec<u16> {
    let record = parse(record);
    let lines = record.as_ref().and_then(|record| record.pointer("/b_info/irqs"));
    let lines = lines.and_then(Value::as_array).into_iter().flatten();
    lines.filter_map(Value::as_u64).filter_map(|line| line.try_into().ok()).collect()
}

/// What a guest that gets devices needs in its config.
pub(super) const PASSTHROUGH: &str = "passthrough=\"enabled\"";

/// Whether the record says that the guest was created without an IOMMU context. One that
/// does not tell is no reason to refuse: Xen will say.
pub(super) fn has_no_context(record: &str) -> bool {
    let record = parse(record);
    let passthrough =
        record.as_ref().and_then(|record| record.pointer("/c_info/passthrough"));
    passthrough.and_then(Value::as_str) == Some("disabled")
}

/// Looks through libxl's record (its `libxl_domain_config` as JSON) for what keeps the guest
/// from ever using a device: the settings that are missing, as a person writes them. A
/// record that does not tell is no reason to refuse: Xen will say.
pub(super) fn missing_settings(record: &str) -> Vec<&'static str> {
    let Some(record) = parse(record) else { return Vec::new() };
    let e820_host = record.pointer("/b_info/type.pv/e820_host").and_then(Value::as_str);
    let passthrough = record.pointer("/c_info/passthrough").and_then(Value::as_str);
    let e820_host = e820_host == Some("True");
    let passthrough = match passthrough {
        Some("disabled") => false,
        Some("default" | "unknown") | None => {
            // libxl decided by pci=, which brings e820_host along and may have been
            // detached since.
            e820_host
        }
        Some(_) => true,
    };
    let mut missing = Vec::new();
    if !passthrough {
        missing.push(PASSTHROUGH);
    }
    if !e820_host {
        missing.push("e820_host=1");
    }
    missing
}
