// Getting things back: which machine, folder and moment; then what.

import {
  Alert,
  Button,
  Card,
  Group,
  Loader,
  SegmentedControl,
  Select,
  Stack,
  Text,
  TextInput,
} from "@mantine/core";
import { useMemo, useState } from "react";
import { useSearchParams } from "react-router";

import type { Snapshot } from "../api/model";
import { hasBackupServer, useConfig, useSnapshots, useStatus } from "../api/queries";
import { choose, type Line, lines, newestAt } from "../lib/choice";
import { bytes, count, counted, visibleName } from "../lib/format";
import { Page, Trouble, When } from "../parts/basics";
import { Restores } from "../parts/restores";
import { SnapshotBrowser } from "../parts/snapshot_browser";

/** Moments of the timeline; older ones are found by their time. */
const MOMENTS = 200;

function Timeline({
  line,
  chosen,
  onChoose,
}: {
  line: Line;
  chosen: Snapshot;
  onChoose: (snapshot: Snapshot) => void;
}) {
  const [moment, setMoment] = useState("");
  const [isNone, setNone] = useState(false);
  return (
    <div>
      <Group justify="space-between" align="flex-end" gap="sm">
        <Text fw={600} id="moment">
          Moment
        </Text>
        <TextInput
          type="datetime-local"
          step={1}
          size="xs"
          label="As it was at"
          value={moment}
          onChange={(event) => {
            const text = event.currentTarget.value;
            setMoment(text);
            const found = text ? newestAt(line, new Date(text)) : undefined;
            setNone(Boolean(text) && !found);
            if (found) onChoose(found);
          }}
        />
      </Group>
      {isNone && (
        <Text size="sm" className="ink-bad" role="status">
          There is no version as old as that; the oldest is from{" "}
          <When at={line.snapshots.at(-1)?.created_at} />.
        </Text>
      )}
      <div className="timeline" role="group" aria-labelledby="moment">
        {line.snapshots.slice(0, MOMENTS).map((snapshot, index) => (
          <button
            key={snapshot.id}
            type="button"
            aria-pressed={snapshot.id === chosen.id}
            onClick={() => onChoose(snapshot)}
          >
            <div>
              <b>
                <When at={snapshot.created_at} />
              </b>
            </div>
            <div style={{ fontSize: "0.8rem" }}>
              {index === 0 ? "newest" : `#${snapshot.sequence}`} · {count(snapshot.files)} files
            </div>
            {snapshot.held && (
              <div className="ink-bad" style={{ fontSize: "0.8rem" }}>
                doubtful
              </div>
            )}
          </button>
        ))}
      </div>
      {line.snapshots.length > MOMENTS && (
        <Text size="sm" c="dimmed">
          The newest {count(MOMENTS)} of {count(line.snapshots.length)} versions; older ones by
          their time.
        </Text>
      )}
      {chosen.held && (
        <Alert title="This version is doubtful" mt="xs">
          {chosen.held}. Another one may be the better.
        </Alert>
      )}
      <Text size="sm" c="dimmed">
        Version #{chosen.sequence}, made <When at={chosen.created_at} />, complete on the backup
        server <When at={chosen.received_at} />. {counted(chosen.files, "file")},{" "}
        {bytes(chosen.bytes)}.
      </Text>
    </div>
  );
}

function Choose({ remote }: { remote: boolean }) {
  const snapshots = useSnapshots(remote);
  const [parameters, setParameters] = useSearchParams();
  const [before, setBefore] = useState<{ line: string; at: string }>();
  // What is shown in the place of one that is gone.
  const [instead, setInstead] = useState<string>();
  const all = useMemo(() => lines(snapshots.data ?? []), [snapshots.data]);
  const asked = {
    line: parameters.get("line"),
    folder: parameters.get("folder"),
    at: parameters.get("at"),
  };
  const shown = choose(all, asked, before);
  // What is looked at stays, whatever arrives meanwhile.
  if (shown && (before?.line !== shown.line.key || before.at !== shown.snapshot.id)) {
    setBefore({ line: shown.line.key, at: shown.snapshot.id });
    if (shown.isGone) setInstead(shown.snapshot.id);
  }
  if (snapshots.isPending) return <Loader aria-label="Loading" />;
  const trouble = <Trouble error={snapshots.error} onRetry={() => void snapshots.refetch()} />;
  if (!snapshots.data) return trouble;
  if (!shown) {
    return (
      <>
        {trouble}
        <Text>
          {remote
            ? "The backup server holds no version of this machine's folders yet."
            : "This machine holds no backups of other machines."}
        </Text>
      </>
    );
  }
  const set = (changes: Record<string, string | undefined>) => {
    const next = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(changes)) {
      if (value === undefined) next.delete(name);
      else next.set(name, value);
    }
    setParameters(next, { replace: true });
  };
  return (
    <>
      {trouble}
      <Card withBorder>
        <Stack gap="md">
          <Lines
            all={all}
            chosen={shown.line}
            remote={remote}
            onChoose={(one) => set({ line: one.key, at: undefined })}
          />
          {(shown.isGone || shown.snapshot.id === instead) && (
            <Text className="ink-bad" role="status">
              The version that was looked at is not there any more; another is shown.
            </Text>
          )}
          {shown.hasNewer && (
            <Group gap="xs" role="status">
              <Text size="sm">A newer version has come.</Text>
              <Button
                size="compact-sm"
                onClick={() => setBefore({ line: shown.line.key, at: shown.newest })}
              >
                Show the newest
              </Button>
            </Group>
          )}
          <Timeline
            key={shown.line.key}
            line={shown.line}
            chosen={shown.snapshot}
            onChoose={(one) => set({ at: one.id })}
          />
        </Stack>
      </Card>
      <SnapshotBrowser
        key={shown.line.key}
        line={shown.line}
        snapshot={shown.snapshot}
        remote={remote}
      />
    </>
  );
}

/** Which machine, and which folder of it. */
function Lines({
  all,
  chosen,
  remote,
  onChoose,
}: {
  all: Line[];
  chosen: Line;
  remote: boolean;
  onChoose: (line: Line) => void;
}) {
  const machines = [...new Map(all.map((one) => [one.sourcePeerId, one.source])).entries()];
  const choosing = (found: Line | undefined) => {
    if (found) onChoose(found);
  };
  return (
    <Group grow preventGrowOverflow={false}>
      {!remote && (
        <Select
          label="Machine"
          data={machines.map(([value, label]) => ({ value, label }))}
          value={chosen.sourcePeerId}
          allowDeselect={false}
          onChange={(value) => choosing(all.find((one) => one.sourcePeerId === value))}
        />
      )}
      <Select
        label="Folder"
        data={all
          .filter((one) => one.sourcePeerId === chosen.sourcePeerId)
          .map((one) => ({ value: one.key, label: visibleName(one.folderName) }))}
        value={chosen.key}
        allowDeselect={false}
        onChange={(value) => choosing(all.find((one) => one.key === value))}
      />
    </Group>
  );
}

export function Restore() {
  const status = useStatus();
  const config = useConfig();
  const hasServer = hasBackupServer(config.data) ?? false;
  const [parameters, setParameters] = useSearchParams();
  const isServer = (status.data?.sources.length ?? 0) > 0;
  const canBoth = isServer && hasServer;
  const own = useSnapshots(false, status.isSuccess);
  const holds = (own.data?.length ?? 0) > 0;
  const asked = parameters.get("from");
  const folder = parameters.get("folder");
  const isOwnFolder = status.data?.folders.some((one) => one.id === folder) ?? false;
  const remote = asked ? asked === "server" : hasServer && (isOwnFolder || (!isServer && !holds));
  return (
    <Page
      title="Restore"
      lead="Choose a moment, look around in it, and take back a file or all of it."
    >
      <Restores />
      {(canBoth || (hasServer && holds)) && (
        <SegmentedControl
          aria-label="Whose backups"
          value={remote ? "server" : "here"}
          onChange={(value) => setParameters({ from: value }, { replace: true })}
          data={[
            { value: "here", label: "Kept here" },
            { value: "server", label: "On the backup server" },
          ]}
        />
      )}
      {!status.data && <Trouble error={status.error} />}
      {!config.data && <Trouble error={config.error} onRetry={() => void config.refetch()} />}
      {/* Whose backups are shown is known only when all of these are. */}
      {status.isPending || own.isLoading || config.isPending ? (
        <Loader aria-label="Loading" />
      ) : (
        <Choose key={String(remote)} remote={remote} />
      )}
    </Page>
  );
}
