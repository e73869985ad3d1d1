//! The emulator as a process: what real clients and bare frames see of it.

mod amplify;
mod command;
mod faults;
mod http;
mod limits;
mod log;
mod memory;
mod modes;
mod page;
mod realtime;
mod signature;
