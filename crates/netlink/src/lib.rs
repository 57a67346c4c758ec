//! The kernel's netlink sockets: messages, attributes, and who answers.
