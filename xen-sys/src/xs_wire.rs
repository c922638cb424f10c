//! public/io/xs_wire.h

/// Commands to the server.
pub const XS_CONTROL: u32 = 0;
/// List the names below a node.
pub const XS_DIRECTORY: u32 = 1;
/// Read a node.
pub const XS_READ: u32 = 2;
/// Read a node's permissions.
pub const XS_GET_PERMS: u32 = 3;
/// Watch a node.
pub const XS_WATCH: u32 = 4;
/// End a watch.
pub const XS_UNWATCH: u32 = 5;
/// Start a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// End it.
pub const XS_TRANSACTION_END: u32 = 7;
/// Where a domain's nodes are.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Write a node.
pub const XS_WRITE: u32 = 11;
/// Make an empty node.
pub const XS_MKDIR: u32 = 12;
/// Remove a node and all below it.
pub const XS_RM: u32 = 13;
/// Set a node's permissions.
pub const XS_SET_PERMS: u32 = 14;
/// From the server: a watch has fired.
pub const XS_WATCH_EVENT: u32 = 15;
/// From the server: a request has failed.
pub const XS_ERROR: u32 = 16;
/// Remove all our watches.
pub const XS_RESET_WATCHES: u32 = 21;

/// Head of each message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct xsd_sockmsg {
    /// `XS_*`
    pub r#type: u32,
    /// Comes back in the reply.
    pub req_id: u32,
    /// Transaction, 0 for none.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// Bytes of each ring.
pub const XENSTORE_RING_SIZE: usize = 1024;
/// Longest payload of a message.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Longest absolute path.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Longest relative path.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;

/// An index of a ring: counts bytes, wraps at 2^32.
pub type XENSTORE_RING_IDX = u32;

/// The page shared with XenStore.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xenstore_domain_interface {
    /// From us.
    pub req: [u8; XENSTORE_RING_SIZE],
    /// To us.
    pub rsp: [u8; XENSTORE_RING_SIZE],
    /// Bytes of `req` taken.
    pub req_cons: XENSTORE_RING_IDX,
    /// Bytes of `req` there.
    pub req_prod: XENSTORE_RING_IDX,
    /// Bytes of `rsp` taken.
    pub rsp_cons: XENSTORE_RING_IDX,
    /// Bytes of `rsp` there.
    pub rsp_prod: XENSTORE_RING_IDX,
    /// What the server can do.
    pub server_features: u32,
    /// State of the connection.
    pub connection: u32,
    /// Why the server gave up.
    pub error: u32,
}
