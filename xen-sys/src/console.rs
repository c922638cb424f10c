//! public/io/console.h

/// An index of a console ring: counts bytes, wraps at 2^32.
pub type XENCONS_RING_IDX = u32;

/// The page of a PV console.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xencons_interface {
    /// What people type.
    pub r#in: [u8; 1024],
    /// What the domain prints.
    pub out: [u8; 2048],
    /// Bytes of `in` taken.
    pub in_cons: XENCONS_RING_IDX,
    /// Bytes of `in` there.
    pub in_prod: XENCONS_RING_IDX,
    /// Bytes of `out` taken.
    pub out_cons: XENCONS_RING_IDX,
    /// Bytes of `out` there.
    pub out_prod: XENCONS_RING_IDX,
}
