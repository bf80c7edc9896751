//! The network and sockets: what was not given does not leave.

use super::{IfThere, Root, Row, Works, all_ways};

/// `$TCP` and `$UDP` are ports of another program on this machine, `$O/stream` and
/// `$O/datagram` its Unix sockets.
const UNIX: &[Row] = &[
    ("a Unix socket", Works, "$A unix $O/stream"),
    ("an abstract Unix socket", Works, "$A unix @$O"),
    ("the host's socket", Works, "$A unix $FLEDGLING_HOME/host.sock"),
    ("a pair of datagrams, pointed elsewhere", Works, "$A pair 2 $O/datagram"),
    ("a raw pair, which is one of datagrams", Works, "$A pair 3 $O/datagram"),
    ("virtual machines", IfThere, "$A socket 40 1 0"),
    ("packets", Root, "$A socket 17 3 0"),
    ("packets of old", Root, "$A socket 2 10 768"),
    ("raw", Root, "$A socket 2 3 1"),
    ("ciphers of the kernel", IfThere, "$A socket 38 5 0"),
    ("netfilter", IfThere, "$A socket 16 3 12"),
    ("audit", IfThere, "$A socket 16 3 9"),
    ("device events", IfThere, "$A socket 16 2 15"),
    ("generic netlink", IfThere, "$A socket 16 3 16"),
    ("Bluetooth", IfThere, "$A socket 31 3 1"),
    ("express data path", IfThere, "$A socket 44 3 0"),
    ("TIPC", IfThere, "$A socket 30 1 0"),
    ("RDS", IfThere, "$A socket 21 5 0"),
    ("SMC", IfThere, "$A socket 43 1 0"),
    ("CAN", IfThere, "$A socket 29 3 1"),
];
const TCP: &[Row] = &[
    ("TCP", Works, "$A tcp $TCP"),
    ("TCP by bash", Works, "exec 3<>/dev/tcp/127.0.0.1/$TCP"),
    ("UDP", Works, "$A udp $UDP"),
    ("UDP by bash", Works, "echo > /dev/udp/127.0.0.1/$UDP"),
    ("Fast Open by sendto", IfThere, "$A tcp $TCP sendto"),
    ("Fast Open by sendmsg", IfThere, "$A tcp $TCP sendmsg"),
    ("Fast Open by sendmmsg", IfThere, "$A tcp $TCP sendmmsg"),
    ("Fast Open by an option", IfThere, "$A tcp $TCP option"),
    ("MPTCP", IfThere, "$A mptcp $TCP"),
    ("SCTP", IfThere, "$A socket 2 1 132"),
    ("SMC in the place of TCP", IfThere, "$A socket 2 1 256"),
    ("offer a port", Works, "$A offer 1"),
    ("offer any port", Works, "$A offer 0"),
];

#[test]
fn no_sockets_but_the_networks() {
    all_ways("", UNIX);
}

#[test]
fn no_network_where_there_is_none() {
    all_ways("[hands]\nnetwork = \"none\"\n", TCP);
}

#[test]
fn ports_are_those_that_were_given() {
    all_ways("[hands]\nnetwork = [1]\n", TCP);
    all_ways(
        "[hands]\nnetwork = [1]\n",
        &[("another protocol put above TCP", Works, "$A option 31 tls")],
    );
}

#[test]
fn with_unix_sockets_the_abstract_ones_stay_out_of_reach() {
    all_ways("[hands]\nunix = true\n", &[("an abstract Unix socket", Works, "$A unix @$O")]);
}
