// Bringing two machines together by a code.

import { Button, Group, List, Stack, Text, TextInput } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { useJoin, useOpenPairing, usePairing } from "../api/queries";
import { duration } from "../lib/format";
import { Announce, Copy, Id, Trouble, useNow } from "./basics";

/** The code that this machine shows. */
export function ShowCode({ onClose }: { onClose: () => void }) {
  const open = useOpenPairing();
  const pairing = usePairing(open.isSuccess);
  const now = useNow();
  const state = pairing.data;
  const client = useQueryClient();
  const isJoined = open.isSuccess && state?.state === "joined";
  useEffect(() => {
    // The other side has changed the settings of this one.
    if (isJoined) void client.invalidateQueries();
  }, [client, isJoined]);
  const left = open.data ? (Date.parse(open.data.expires_at) - now.getTime()) / 1000 : 0;
  const isOver = state?.state === "expired" || state?.state === "failed" || left <= 0;
  const over = state?.detail ?? "The code's time is over.";
  return (
    <Stack>
      <Text>
        On the machine that is to keep the backups, open Archivist, choose Devices, and enter this
        code. It counts once.
      </Text>
      {!open.data && (
        <Button
          variant="filled"
          loading={open.isPending}
          onClick={() => open.mutate(undefined)}
          data-autofocus
        >
          Show a code
        </Button>
      )}
      <Trouble error={open.error} />
      {open.data && state?.state !== "joined" && (
        <>
          <Group gap="xs" wrap="nowrap">
            <span className="code">{open.data.code}</span>
            <Copy text={open.data.code} what="the code" />
          </Group>
          <Text size="sm" c="dimmed">
            {isOver
              ? over
              : `Waiting for the other machine; the code counts for ${duration(left)} more.`}
          </Text>
          {/* Not every second of it. */}
          <Announce text={isOver ? over : "Waiting for the other machine."} />
          {isOver && <Button onClick={() => open.mutate(undefined)}>Make another code</Button>}
        </>
      )}
      {open.data && state?.state === "joined" && (
        <div className="band band-good" role="status">
          <Text fw={600}>Paired. This machine's folders are backed up there from now on.</Text>
          {state.peer_id && <Id id={state.peer_id} what="the peer id" />}
          {state.detail && (
            <List size="sm">
              {state.detail.split("; ").map((change) => (
                <List.Item key={change}>{change}</List.Item>
              ))}
            </List>
          )}
        </div>
      )}
      <Group justify="flex-end">
        <Button onClick={onClose}>Close</Button>
      </Group>
    </Stack>
  );
}

/** The code that the other machine shows. */
export function EnterCode({ onClose }: { onClose: () => void }) {
  const [code, setCode] = useState("");
  const join = useJoin();
  if (join.data) {
    return (
      <Stack>
        <div className="band band-good" role="status">
          <Text fw={600}>
            Paired with {join.data.name}. Its folders are backed up here from now on.
          </Text>
          <List size="sm">
            {join.data.changes.map((change) => (
              <List.Item key={change}>{change}</List.Item>
            ))}
          </List>
        </div>
        {join.data.needs_restart.length > 0 && (
          <Text className="ink-bad">
            These settings count after a restart: {join.data.needs_restart.join(", ")}.
          </Text>
        )}
        <Group justify="flex-end">
          <Button variant="filled" onClick={onClose}>
            Done
          </Button>
        </Group>
      </Stack>
    );
  }
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        join.mutate(code.trim());
      }}
    >
      <Stack>
        <TextInput
          label="Pairing code"
          description="As the machine that is to be backed up shows it: there, open Devices and choose Show a code."
          value={code}
          onChange={(event) => setCode(event.currentTarget.value)}
          autoComplete="off"
          spellCheck={false}
          data-autofocus
        />
        <Trouble error={join.error} />
        <Group justify="flex-end">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="filled" loading={join.isPending} disabled={!code.trim()}>
            Pair
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
