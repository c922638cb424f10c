//! public/errno.h, the numbers without sign.

/// Operation not permitted.
pub const XEN_EPERM: i32 = 1;
/// No such file or directory.
pub const XEN_ENOENT: i32 = 2;
/// No such process.
pub const XEN_ESRCH: i32 = 3;
/// I/O error.
pub const XEN_EIO: i32 = 5;
/// No such device or address.
pub const XEN_ENXIO: i32 = 6;
/// Try again.
pub const XEN_EAGAIN: i32 = 11;
/// Operation would block.  Aliases EAGAIN.
pub const XEN_EWOULDBLOCK: i32 = 11;
/// Out of memory.
pub const XEN_ENOMEM: i32 = 12;
/// Permission denied.
pub const XEN_EACCES: i32 = 13;
/// Bad address.
pub const XEN_EFAULT: i32 = 14;
/// Device or resource busy.
pub const XEN_EBUSY: i32 = 16;
/// File exists.
pub const XEN_EEXIST: i32 = 17;
/// No such device.
pub const XEN_ENODEV: i32 = 19;
/// Invalid argument.
pub const XEN_EINVAL: i32 = 22;
/// No space left on device.
pub const XEN_ENOSPC: i32 = 28;
/// Math result not representable.
pub const XEN_ERANGE: i32 = 34;
/// Function not implemented.
pub const XEN_ENOSYS: i32 = 38;
/// No data available.
pub const XEN_ENODATA: i32 = 61;
/// Operation not supported on transport endpoint.
pub const XEN_EOPNOTSUPP: i32 = 95;
