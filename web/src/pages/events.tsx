// The journal of events, and the debug log.

import { Button, Card, Group, Loader, Select, Switch, Tabs, Text, TextInput } from "@mantine/core";
import { useEffect, useMemo, useRef, useState } from "react";

import { useJournal, useLogs, useSetKey, useConfig } from "../api/queries";
import { visibleName } from "../lib/format";
import { Copy, Dot, FileName, Page, ErrorBox, When } from "../parts/basics";

/** Number of entries shown at a time. */
const SHOWN = 100;

const names = (all: (string | null | undefined)[]): string[] =>
  [...new Set(all.filter((one): one is string => Boolean(one)))].sort();

function Journal() {
  const journal = useJournal();
  const [folder, setFolder] = useState<string | null>(null);
  const [device, setDevice] = useState<string | null>(null);
  const [shown, setShown] = useState(SHOWN);
  const all = useMemo(() => [...(journal.data ?? [])].reverse(), [journal.data]);
  const fitting = all.filter(
    (entry) => (!folder || entry.folder === folder) && (!device || entry.device === device),
  );
  return (
    <Card withBorder>
      <Group mb="md" align="flex-end">
        <Select
          label="Folder"
          placeholder="All folders"
          clearable
          value={folder}
          onChange={setFolder}
          data={names(all.map((one) => one.folder)).map((value) => ({
            value,
            label: visibleName(value),
          }))}
          clearButtonProps={{ "aria-label": "All folders" }}
        />
        <Select
          label="Device"
          placeholder="All devices"
          clearable
          value={device}
          onChange={setDevice}
          data={names(all.map((one) => one.device))}
          clearButtonProps={{ "aria-label": "All devices" }}
        />
      </Group>
      {journal.isPending && <Loader aria-label="Loading" />}
      <ErrorBox error={journal.error} />
      {journal.data && fitting.length === 0 && (
        <Text c="dimmed">{folder || device ? "No event matches." : "No events yet."}</Text>
      )}
      <ol aria-label="Events" style={{ listStyle: "none", margin: 0, padding: 0 }}>
        {fitting.slice(0, shown).map((entry) => (
          <li
            key={entry.id}
            style={{
              padding: "8px 0",
              borderBottom: "1px solid var(--mantine-color-default-border)",
            }}
          >
            <Dot
              tone={entry.level === "error" ? "bad" : entry.level === "warning" ? "warn" : "quiet"}
            >
              <Text size="xs" c="dimmed" component="span">
                <When at={entry.at} />
              </Text>{" "}
              <FileName name={entry.message} />
            </Dot>
          </li>
        ))}
      </ol>
      {fitting.length > shown && (
        <Button mt="sm" onClick={() => setShown(shown + SHOWN)}>
          Show older events
        </Button>
      )}
    </Card>
  );
}

function Logs() {
  const logs = useLogs(true);
  const config = useConfig();
  const set = useSetKey();
  const [text, setText] = useState("");
  const [follows, setFollows] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const all = logs.data ?? [];
  const fitting = text
    ? all.filter((line) => `${line.level} ${line.text}`.toLowerCase().includes(text.toLowerCase()))
    : all;
  const last = fitting.at(-1)?.id;
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [follows, last]);
  const level = config.data?.node?.log_level;
  return (
    <Card withBorder>
      <Group mb="md" align="flex-end" gap="md">
        <TextInput
          label="Filter"
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
        />
        <Select
          label="Level"
          data={["error", "warn", "info", "debug", "trace"]}
          value={typeof level === "string" ? level : null}
          allowDeselect={false}
          onChange={(value) => value && set.mutate({ key: "node.log_level", value })}
        />
        <Switch
          label="Follow new lines"
          checked={follows}
          onChange={(event) => setFollows(event.currentTarget.checked)}
        />
        <Copy
          text={fitting.map((line) => `${line.at} ${line.level} ${line.text}`).join("\n")}
          what="the log"
        />
      </Group>
      <ErrorBox error={logs.error ?? set.error} />
      <div className="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label="Debug log">
        {!logs.data && !logs.isError && <Loader size="sm" aria-label="Loading" />}
        {logs.data &&
          fitting.length === 0 &&
          (text ? "No line matches." : "Nothing has been logged.")}
        {fitting.map((line) => (
          <div key={line.id}>
            <When at={line.at} /> {line.level.padEnd(5)} <FileName name={line.text} />
          </div>
        ))}
      </div>
    </Card>
  );
}

export function Events() {
  const [tab, setTab] = useState<string | null>("events");
  return (
    <Page title="Events and logs" lead="The journal of events, and the program's debug log.">
      <Tabs value={tab} onChange={setTab} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="events">Events</Tabs.Tab>
          <Tabs.Tab value="log">Debug log</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="events">
          <Journal />
        </Tabs.Panel>
        <Tabs.Panel value="log">
          <Logs />
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}
