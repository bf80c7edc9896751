//! Files that a hand was not given: read, changed, moved, linked, by whatever way.

use super::{IfThere, Lab, Root, Row, Stated, Works, all_ways, bash, users};

/// `$O` is a folder of the user outside of all grants, `$R` what it and the home lie in.
const ROWS: &[Row] = &[
    ("read outside", Works, "grep -q SECRET $O/secret"),
    ("read by ..", Works, "cd $HOME; grep -q SECRET ../../out/secret"),
    ("read by /proc/self/root", Works, "cat /proc/self/root$O/secret"),
    ("read by /proc/1/root", IfThere, "cat /proc/1/root$O/secret"),
    ("read by the root of another program", Works, "cat /proc/$V/root$O/secret"),
    ("read by the folder of the host", Root, "ls -d /proc/$H/cwd/. && cat /proc/$H/cwd/s.jsonl"),
    ("read by the folder of another program", Works, "cat /proc/$V/cwd/s.jsonl"),
    ("read through a symlink", Works, "ln -sfn $O way; cat way/secret"),
    ("list outside", Works, "ls $O"),
    ("list the user's folder", Works, "ls -a $R/user"),
    ("a folder changed to gives no right", Works, "cd $O; grep -q SECRET secret"),
    ("run outside", Works, "printf '#!/bin/sh\\n' > $O/run && chmod +x $O/run && $O/run"),
    ("write outside", Works, "echo x >> $O/victim"),
    ("make a file outside", Works, "echo x > $O/new"),
    ("make a folder outside", Works, "mkdir $O/made"),
    ("remove outside", Works, "echo x > $O/gone; rm $O/gone && test ! -e $O/gone"),
    ("a hardlink out", Works, "echo x > own; ln own $O/linked-out"),
    ("a hardlink in", Works, "ln $O/secret linked-in"),
    ("a rename out", Works, "echo x > own; mv -T own $O/moved && test -e $O/moved"),
    ("a rename in", Works, "mv -T $O/folder moved && mv -T moved $O/folder"),
    ("a rename over the workspace", Works, "mv -T $HOME $HOME.old && mv -T $HOME.old $HOME"),
    (
        "the workspace made a symlink",
        Works,
        "cd /; mv -T $HOME $HOME.old && ln -s $O $HOME && rm $HOME && mv -T $HOME.old $HOME",
    ),
    ("truncate outside", Works, "echo xx > $O/longer; truncate -s 1 $O/longer"),
    ("empty by opening to read", Works, "echo xx > $O/short; $A empty $O/short"),
    ("by a handle, not a name", Root, "$A handle $HOME $O/secret"),
    ("a device made", Root, "rm -f device; mknod device b 7 0"),
    ("a character device made", Root, "rm -f device; mknod device c 1 1"),
    ("an attribute set outside", IfThere, "$A call setxattr @$O/victim @user.x @1 1 0"),
    ("an attribute set inside", IfThere, "touch own; $A call setxattr @own @user.x @1 1 0"),
    ("flags of a file outside", IfThere, "$A call 469 -100 @$O/victim %24 24 0"),
    (
        "flags of a file that it may read",
        IfThere,
        "touch own; command -v chattr > /dev/null || exit 20; chattr +d own && chattr -d own",
    ),
    ("change a mode outside", Works, "chmod 600 $O/victim"),
    ("a mode through a symlink", Works, "ln -sfn $O way; chmod 600 way/victim"),
    ("a mode from a folder changed to", Works, "cd $O; chmod 600 victim"),
    ("a mode by /proc/self/root", Works, "chmod 600 /proc/self/root$O/victim"),
    (
        "a mode by a descriptor",
        Works,
        "exec 3< .; cd $O; chmod 600 /proc/self/fd/3/../../out/victim",
    ),
    ("the mode of a folder outside", Works, "chmod 700 $O/folder"),
    ("the mode of config.toml", Works, "chmod 600 $FLEDGLING_HOME/config.toml"),
    ("the mode of the home", Works, "chmod 700 $FLEDGLING_HOME"),
    ("the mode of the user's folder", Works, "chmod 755 $R/user"),
    ("the mode of a program of the system", Root, "chmod 755 /usr/bin/env"),
    (
        "the mode of a program that it can open",
        Root,
        "perl -e 'open F, \"/usr/bin/env\"; chmod 0755, *F or die \"$!\\n\"'",
    ),
    ("the mode of a device", Root, "chmod 666 /dev/null"),
    ("change times outside", Works, "touch -d @1 $O/victim"),
    ("change times outside to now", Works, "touch -c $O/victim"),
    ("times as older programs change them", IfThere, "$A call utime @$O/victim 0"),
    ("and others", IfThere, "$A call utimes @$O/victim 0"),
    ("and others from a folder", IfThere, "$A call futimesat -100 @$O/victim 0"),
    (
        "change a group outside",
        Works,
        "chgrp $(id -g) $O/victim && $A call fchownat -100 @$O/victim $UID $UID 0",
    ),
    ("change an owner inside", Root, "touch own; chown 7 own && chown 0 own"),
    ("lend the user's rights", Works, "echo x > own; chmod u+s own"),
    ("lend the group's rights", Works, "echo x > own; chmod g+s own"),
    // What Landlock has no right for.
    ("look at names and sizes outside", Stated, "stat $O/secret"),
    ("stand in a folder outside", Stated, "cd $O"),
    ("temporary files and long outputs of other sessions", Stated, "ls $FLEDGLING_HOME/scratch"),
    // The host's half of the home, and what it runs.
    ("read the door's key", Works, "cat $FLEDGLING_HOME/door.key"),
    ("read secrets.toml", Works, "grep SECRET $FLEDGLING_HOME/secrets.toml"),
    ("write config.toml", Works, ": >> $FLEDGLING_HOME/config.toml"),
    ("read config.toml", Works, "cat $FLEDGLING_HOME/config.toml"),
    ("write state.db", Works, ": >> $FLEDGLING_HOME/state.db"),
    ("read state.db", Works, "cat $FLEDGLING_HOME/state.db"),
    ("write the history", Works, ": >> $FLEDGLING_HOME/history.git/HEAD"),
    (
        "set a hook of the history",
        Works,
        "mkdir -p $FLEDGLING_HOME/history.git/hooks && echo > $FLEDGLING_HOME/history.git/hooks/x",
    ),
    (
        "read a transcript",
        Works,
        "cat $FLEDGLING_HOME/sessions/*.jsonl; cat $FLEDGLING_HOME/sessions/s.jsonl",
    ),
    (
        "forge a transcript",
        Works,
        "echo > $FLEDGLING_HOME/sessions/forged.jsonl && rm $FLEDGLING_HOME/sessions/forged.jsonl",
    ),
    ("read the wire log", Works, "ls $FLEDGLING_HOME/wire"),
    ("put another program in its place", Works, "ln -s /bin/true $FLEDGLING_HOME/program/x"),
    (
        "the program itself",
        Works,
        "echo > ${FLEDGLING_HOME%/home}/probe && : >> $FLEDGLING_HOME/program/../probe",
    ),
    (
        "a door of another session",
        Works,
        "mkdir $FLEDGLING_HOME/doors/forged && rmdir $FLEDGLING_HOME/doors/forged",
    ),
    (
        "another branch's files",
        Works,
        "mkdir -p $FLEDGLING_HOME/branches/x && rm -r $FLEDGLING_HOME/branches",
    ),
    ("make a folder of the home", Works, "mkdir $FLEDGLING_HOME/x"),
    // What runs by itself later.
    ("a shell's start file", Works, "echo >> $R/user/.bashrc"),
    ("a unit of the user", Works, "mkdir -p $R/user/.config/systemd/user"),
    ("a job of cron", Root, "mkdir /etc/cron.d-fledgling && rmdir /etc/cron.d-fledgling"),
    (
        "ld.so.preload",
        Root,
        "test -e /etc/ld.so.preload || { mkdir /etc/ld.so.preload-fledgling && rmdir /etc/ld.so.preload-fledgling; }",
    ),
    ("a program of the system", Root, ": >> /usr/bin/env"),
    ("users and their passwords", Root, "cat /etc/shadow"),
    (
        "a setting of the kernel",
        Root,
        "was=$(</proc/sys/kernel/printk_ratelimit); echo $was > /proc/sys/kernel/printk_ratelimit",
    ),
    ("sysrq", IfThere, "test -e /proc/sysrq-trigger || exit 20; printf h > /proc/sysrq-trigger"),
    ("memory of the machine", IfThere, "test -e /proc/kcore || exit 20; exec 3< /proc/kcore"),
    (
        "a disk",
        IfThere,
        "disk=$(ls -d /dev/[svn][dv][abm]* 2>&- | head -n1); test -b \"$disk\" || exit 20; exec 3< $disk",
    ),
    ("shared memory as files", Works, "echo > /dev/shm/fledgling-$$ && rm /dev/shm/fledgling-$$"),
    ("temporary files of others", Works, "ls /tmp"),
];

#[test]
fn files_outside_are_out_of_reach() {
    all_ways("", ROWS);
}

/// Or the rows above would show nothing.
#[test]
fn modes_and_times_inside_are_the_hands() {
    for user in users() {
        let lab = Lab::new(user, "");
        let told = lab.turn(&[bash(
            "echo x > own; chmod 4700 own 2>&-; chmod 751 own; touch -d @1 own; chgrp $(id -g) own
            stat -c '%a %Y' own; mkdir -m 2750 folder; chmod g-s,o+t folder; stat -c %A folder
            cp -a own folder/; tar c folder | (mkdir to; tar xpC to); stat -c '%a %Y' to/folder/own",
        )]);
        assert_eq!(told, ["751 1\ndrwxr-x--T\n751 1\n"]);
    }
}
