"""Everything that talks to systemd: its manager, its journal, its sockets and its notification socket."""
