"""What the scripts beside this one share: a bridge of examples/ run alone, and the real program
in a home of its own with a scripted model. Knows no server."""
import json, os, pathlib, queue, re, signal, socket, subprocess, sys, tempfile, threading, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("FLEDGLING", str(ROOT / "target/debug/fledgling"))
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
BOUND = 60  # seconds anything is waited for, so that what is broken ends

def say(text):
    print(f"   {text}", flush=True)

def shown(text):
    """Something that has to hold was seen to hold."""
    print(f"ok {text}", flush=True)

def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

def until(what, found, seconds=BOUND):
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (answer := found()) not in (None, False, [], b"", ""):
            return answer
        time.sleep(0.1)
    sys.exit(f"FAILED: waited {seconds} s for {what}")

def hold(what, is_so, detail=""):
    if not is_so:
        sys.exit(f"FAILED: {what}: {detail}")
    shown(what)

class Bridge:
    """A script of examples/, spoken to as the host does."""
    def __init__(self, name, folder, **environment):
        self.lines, self.taken = queue.Queue(), []
        self.errors = open(f"{folder}/stderr", "a+")
        self.process = subprocess.Popen([ROOT / "examples" / name / name], env={"PATH": PATH, "TMPDIR": str(folder), **environment},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def event(self, what, which):
        end = time.monotonic() + BOUND
        while time.monotonic() < end:
            for at, one in enumerate(self.taken):
                if which(one):
                    return self.taken.pop(at)
            try:
                self.taken.append(self.lines.get(timeout=0.5))
            except queue.Empty:
                pass
        self.errors.seek(0)
        sys.exit(f"FAILED: waited for {what}; there was {self.taken}\n{self.errors.read()}")

    def give(self, **event):
        self.process.stdin.write(json.dumps({"seq": 1, **event}) + "\n")
        self.process.stdin.flush()

    def message(self):
        return self.event("a message", lambda one: "chat" in one)

    def ack(self, message):
        self.give(event="ack", id=message["id"])

    def deliver(self, key, chat, text, **more):
        self.give(event="message", key=key, chat=chat, text=text, **more)
        return self.event(f"the answer to {key}", lambda one: one.get("key") == key)

    def complained(self, of):
        def found():
            self.errors.seek(0)
            return of in self.errors.read()
        until(f"the complaint {of!r}", found)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        self.process.wait(BOUND)

class Fledgling:
    """The real program with a model that plays these replies."""
    def __init__(self, folder, replies):
        self.folder, self.host = pathlib.Path(folder), None
        (self.folder / "user").mkdir(parents=True)
        script = self.folder / "script.jsonl"
        script.write_text("\n".join(json.dumps(one) for one in replies))
        self.model = f"script:{script}"
        self.env = {"PATH": PATH, "HOME": str(self.folder / "user"), "FLEDGLING_HOME": str(self.folder / "home"), "LANG": "C.UTF-8"}
        self.run("init")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.host and self.host.poll() is None:
            self.stop()
        for log in (self.folder / "home/logs").glob("*") if kind else []:
            print(f"--- {log}\n{log.read_text()[-3000:]}", file=sys.stderr)

    def run(self, *words, given=None, fine=True):
        ran = subprocess.run([PROGRAM, *words], env=self.env, input=given, capture_output=True, text=True, timeout=BOUND)
        if fine and ran.returncode:
            sys.exit(f"FAILED: fledgling {' '.join(words)}: {ran.stdout}{ran.stderr}")
        return ran.stdout + ran.stderr

    def install(self, name, secrets, settings):
        """A shipped channel, with other settings than those it is shipped with."""
        text = (ROOT / "examples" / name / name).read_text()
        for setting, value in settings.items():
            text, count = re.subn(rf'("{setting}", )("[^"]*"|[\d_.]+)', lambda found: found[1] + json.dumps(value), text)
            assert count == 1, setting
        for secret, value in secrets.items():
            self.run("secret", "set", secret, given=value)
            self.run("allow", "secret", secret)
        made = self.folder / name
        made.write_text(text)
        made.chmod(0o755)
        services = self.folder / "home/workspace/services"
        services.mkdir(exist_ok=True)
        made.rename(services / name)
        checked = self.run("check", f"services/{name}")
        hold(f"`fledgling check services/{name}` finds nothing broken", "BROKEN" not in checked, checked)

    def serve(self):
        log = open(self.folder / "serve.log", "a")
        self.host = subprocess.Popen([PROGRAM, "--model", self.model, "serve"], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the host", lambda: "channels run" in (self.folder / "serve.log").read_text())

    def kill(self):
        self.host.kill()
        self.host.wait()
        (self.folder / "serve.log").write_text("")

    def stop(self):
        self.host.send_signal(signal.SIGTERM)
        self.host.wait(BOUND)

    def bridge_pid(self, name):
        """The process of a service of this home."""
        marks = {f"FLEDGLING_SERVICE={name}".encode(), f"FLEDGLING_HOME={self.folder}/home".encode()}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                own = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"FLEDGLING_SERVICE={name}".encode() in own and any(str(self.folder).encode() in one for one in own):
                    return int(pid)
            except OSError:
                continue

    def said(self):
        """All transcripts, for what the model was told."""
        return "".join(one.read_text() for one in (self.folder / "home").glob("sessions/**/*.jsonl"))
