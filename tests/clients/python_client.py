"""A conversation through the Python library agent-client-protocol, which holds every message
to the protocol's schema: streaming, calls, diffs, a request for more, a cancel, a command, a
load by a second process. Usage: python_client.py FLEDGLING MODEL; FLEDGLING_HOME says where."""

import asyncio
import os
import pathlib
import sys
import tempfile

import acp
from acp.schema import RequestPermissionResponse


class Client:
    def __init__(self):
        self.updates, self.asked = [], []

    def on_connect(self, conn):
        pass

    async def session_update(self, session_id, update, **kwargs):
        self.updates.append(update)

    async def request_permission(self, options, session_id, tool_call, **kwargs):
        self.asked.append(tool_call.title)
        chosen = {"outcome": {"outcome": "selected", "optionId": options[0].option_id}}
        return RequestPermissionResponse.model_validate(chosen)

    def kinds(self):
        return [update.session_update for update in self.updates]

    def said(self, kind="agent_message_chunk"):
        own = [update for update in self.updates if update.session_update == kind]
        return "".join(update.content.text for update in own)


def start(client, command):
    return acp.spawn_agent_process(
        client, *command, env=dict(os.environ), transport_kwargs={"limit": 1 << 26}
    )


async def until(what, come):
    for _ in range(3_000):
        if come():
            return
        await asyncio.sleep(0.01)
    raise SystemExit(f"waited for {what} in vain")


async def main(command, folder):
    client = Client()
    async with start(client, command) as (agent, _):
        hello = await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        assert hello.protocol_version == 1 and hello.agent_capabilities.load_session, hello
        session = (await agent.new_session(cwd=folder, mcp_servers=[])).session_id
        ended = await agent.prompt(session_id=session, prompt=[acp.text_block("go")])
        assert ended.stop_reason == "end_turn", ended
        # The library hands updates to tasks of their own.
        await until("the last words", lambda: "All done." in client.said())
        assert client.said("agent_thought_chunk").startswith("First I look."), client.updates
        calls = [update for update in client.updates if update.session_update == "tool_call"]
        kinds = [call.kind for call in calls]
        assert kinds == ["execute", "edit", "edit", "read", "execute", "other"], kinds
        diffs = [
            (piece.old_text, piece.new_text)
            for update in client.updates
            if update.session_update == "tool_call_update"
            for piece in update.content or []
            if piece.type == "diff"
        ]
        assert diffs == [(None, "# Note\none\n"), ("one", "two")], diffs
        assert len(client.asked) == 1 and client.asked[0].endswith("unix"), client.asked

        pid = pathlib.Path(os.environ["FLEDGLING_HOME"], "workspace", "pid")
        turn = asyncio.create_task(
            agent.prompt(session_id=session, prompt=[acp.text_block("wait")])
        )
        await until("the command", lambda: pid.exists() and pid.read_text().strip())
        await agent.cancel(session_id=session)
        ended = await turn
        assert ended.stop_reason == "cancelled", ended
        gone = lambda: not pathlib.Path("/proc", pid.read_text().strip()).exists()
        await until("the end of what ran", gone)
        done = await agent.prompt(session_id=session, prompt=[acp.text_block("/log")])
        assert done.stop_reason == "end_turn", done
        await until("the log", lambda: "agent" in client.said().split("All done.")[-1])
        try:
            await agent.load_session(cwd=folder, session_id="none", mcp_servers=[])
            raise SystemExit("a session that is not there was loaded")
        except acp.RequestError as error:
            assert error.code == -32002, error

    client = Client()
    async with start(client, command) as (agent, _):
        await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        listed = await agent.list_sessions(cwd=folder)
        assert [one.session_id for one in listed.sessions] == [session], listed
        await agent.load_session(cwd=folder, session_id=session, mcp_servers=[])
        await until("the replay", lambda: "available_commands_update" in client.kinds())
        assert client.said("user_message_chunk") == "gowait", client.said("user_message_chunk")
        assert client.kinds().count("tool_call") == 6, client.kinds()
        assert client.kinds().count("tool_call_update") == 6, client.kinds()
        await agent.close_session(session_id=session)
    print("agent-client-protocol (Python): all as it should be")


program, model = sys.argv[1:]
asyncio.run(main([program, "acp", "--model", model], tempfile.gettempdir()))
