//! What is handed out beside the program: `deploy`, and what the program prints of itself.

mod canaries;
mod container;
mod package;
mod schema;
