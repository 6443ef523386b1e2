// Pairing two computers with a code.

import { Button, Group, List, Stack, Text, TextInput } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { useJoin, useOpenPairing, usePairing } from "../api/queries";
import { duration } from "../lib/format";
import { Announce, Copy, Id, ErrorBox, useNow } from "./basics";

/** Shows the pairing code of this computer. */
export function ShowCode({ onClose }: { onClose: () => void }) {
  const open = useOpenPairing();
  const pairing = usePairing(open.isSuccess);
  const now = useNow();
  const state = pairing.data;
  const client = useQueryClient();
  const isJoined = open.isSuccess && state?.state === "joined";
  useEffect(() => {
    // Pairing has changed the settings of this computer.
    if (isJoined) void client.invalidateQueries();
  }, [client, isJoined]);
  const left = open.data ? (Date.parse(open.data.expires_at) - now.getTime()) / 1000 : 0;
  const isOver = state?.state === "expired" || state?.state === "failed" || left <= 0;
  const over = state?.detail ?? "The code has expired.";
  return (
    <Stack>
      <Text>
        On the computer that will keep the backups, open Archivist, choose Devices and Enter a code,
        then enter the code shown here. A code works once.
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
      <ErrorBox error={open.error} />
      {open.data && state?.state !== "joined" && (
        <>
          <Group gap="xs" wrap="nowrap">
            <span className="code">{open.data.code}</span>
            <Copy text={open.data.code} what="the code" />
          </Group>
          <Text size="sm" c="dimmed">
            {isOver
              ? over
              : `Waiting for the other computer. The code expires in ${duration(left)}.`}
          </Text>
          {/* Without the remaining time, which changes every second. */}
          <Announce text={isOver ? over : "Waiting for the other computer."} />
          {isOver && <Button onClick={() => open.mutate(undefined)}>Show a new code</Button>}
        </>
      )}
      {open.data && state?.state === "joined" && (
        <div className="band band-good" role="status">
          <Text fw={600}>Paired. This computer's folders are backed up there from now on.</Text>
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

/** Accepts the pairing code that another computer shows. */
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
            Restart needed to apply these settings: {join.data.needs_restart.join(", ")}.
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
          description="On the computer to back up, open Devices and choose Show a code."
          value={code}
          onChange={(event) => setCode(event.currentTarget.value)}
          autoComplete="off"
          spellCheck={false}
          data-autofocus
        />
        <ErrorBox error={join.error} />
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
