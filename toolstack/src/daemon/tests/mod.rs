//! The daemon against fakes: pcidom and guests are played by a few lines each.

mod advisories;
mod attach;
mod bed;
mod bus;
mod detach;
mod end;
mod errors;
mod exceptions;
mod faults;
mod hostile;
mod lease;
mod line;
mod link;
mod lock;
mod pool;
mod ports;
mod requests;
mod reset;
mod reset_errors;
mod stop;
mod stubdom;
mod unfit;
