//! What needs more than one command: what the host does by itself later, other sessions,
//! tools that work on files, and hosts that cannot confine.
