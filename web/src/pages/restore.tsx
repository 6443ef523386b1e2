// Restoring: choose the source, the folder and the snapshot, then the files.

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
import { groupBySeries, newestAt, selectSnapshot, type Series } from "../lib/choice";
import { bytes, count, counted, visibleName } from "../lib/format";
import { Page, ErrorBox, When } from "../parts/basics";
import { Restores } from "../parts/restores";
import { SnapshotBrowser } from "../parts/snapshot_browser";

/** Maximum number of snapshots in the timeline. Older ones are found by their time. */
const TIMELINE_MAX = 200;

function Timeline({
  series,
  chosen,
  onChoose,
}: {
  series: Series;
  chosen: Snapshot;
  onChoose: (snapshot: Snapshot) => void;
}) {
  const [time, setTime] = useState("");
  const [isNone, setNone] = useState(false);
  return (
    <div>
      <Group justify="space-between" align="flex-end" gap="sm">
        <Text fw={600} id="timeline">
          Snapshot
        </Text>
        <TextInput
          type="datetime-local"
          step={1}
          size="xs"
          label="As of"
          value={time}
          onChange={(event) => {
            const text = event.currentTarget.value;
            setTime(text);
            const found = text ? newestAt(series, new Date(text)) : undefined;
            setNone(Boolean(text) && !found);
            if (found) onChoose(found);
          }}
        />
      </Group>
      {isNone && (
        <Text size="sm" className="ink-bad" role="status">
          No snapshot is that old. The oldest was made{" "}
          <When at={series.snapshots.at(-1)?.created_at} />.
        </Text>
      )}
      <div className="timeline" role="group" aria-labelledby="timeline">
        {series.snapshots.slice(0, TIMELINE_MAX).map((snapshot, index) => (
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
                {snapshot.is_part ? "a part" : "suspicious"}
              </div>
            )}
          </button>
        ))}
      </div>
      {series.snapshots.length > TIMELINE_MAX && (
        <Text size="sm" c="dimmed">
          The newest {count(TIMELINE_MAX)} of {count(series.snapshots.length)} snapshots are shown.
          To find an older one, enter a time.
        </Text>
      )}
      {chosen.held && (
        <Alert
          title={chosen.is_part ? "This snapshot is a part" : "This snapshot is suspicious"}
          mt="xs"
        >
          {chosen.is_part
            ? "The first scan of the folder had not ended. Further files are missing."
            : `${chosen.held}. Compare it with other snapshots before you restore it.`}
        </Alert>
      )}
      <Text size="sm" c="dimmed">
        Snapshot #{chosen.sequence}, made <When at={chosen.created_at} />, complete on the backup
        server <When at={chosen.received_at} />. {counted(chosen.files, "file")},{" "}
        {bytes(chosen.bytes)}.
      </Text>
    </div>
  );
}

function Choose({ remote }: { remote: boolean }) {
  const snapshots = useSnapshots(remote);
  const [parameters, setParameters] = useSearchParams();
  const [before, setBefore] = useState<{ series: string; at: string }>();
  // Id of the snapshot that is shown because the requested one no longer exists.
  const [instead, setInstead] = useState<string>();
  const all = useMemo(() => groupBySeries(snapshots.data ?? []), [snapshots.data]);
  const requested = {
    series: parameters.get("series"),
    folder: parameters.get("folder"),
    at: parameters.get("at"),
  };
  const shown = selectSnapshot(all, requested, before);
  // The snapshot on screen stays when newer ones arrive.
  if (shown && (before?.series !== shown.series.key || before.at !== shown.snapshot.id)) {
    setBefore({ series: shown.series.key, at: shown.snapshot.id });
    if (shown.isGone) setInstead(shown.snapshot.id);
  }
  if (snapshots.isPending) return <Loader aria-label="Loading" />;
  const trouble = <ErrorBox error={snapshots.error} onRetry={() => void snapshots.refetch()} />;
  if (!snapshots.data) return trouble;
  if (!shown) {
    return (
      <>
        {trouble}
        <Text>
          {remote
            ? "The backup server has no snapshot of this computer's folders yet."
            : "This computer stores no backups of other computers."}
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
          <SeriesSelect
            all={all}
            chosen={shown.series}
            remote={remote}
            onChoose={(one) => set({ series: one.key, at: undefined })}
          />
          {(shown.isGone || shown.snapshot.id === instead) && (
            <Text className="ink-bad" role="status">
              The snapshot that you chose no longer exists. Another one is shown.
            </Text>
          )}
          {shown.hasNewer && (
            <Group gap="xs" role="status">
              <Text size="sm">A newer snapshot has arrived.</Text>
              <Button
                size="compact-sm"
                onClick={() => setBefore({ series: shown.series.key, at: shown.newest })}
              >
                Show the newest
              </Button>
            </Group>
          )}
          <Timeline
            key={shown.series.key}
            series={shown.series}
            chosen={shown.snapshot}
            onChoose={(one) => set({ at: one.id })}
          />
        </Stack>
      </Card>
      <SnapshotBrowser
        key={shown.series.key}
        series={shown.series}
        snapshot={shown.snapshot}
        remote={remote}
      />
    </>
  );
}

/** Selects the source and the folder. */
function SeriesSelect({
  all,
  chosen,
  remote,
  onChoose,
}: {
  all: Series[];
  chosen: Series;
  remote: boolean;
  onChoose: (series: Series) => void;
}) {
  const sources = [...new Map(all.map((one) => [one.sourcePeerId, one.source])).entries()];
  const choosing = (found: Series | undefined) => {
    if (found) onChoose(found);
  };
  return (
    <Group grow preventGrowOverflow={false}>
      {!remote && (
        <Select
          label="Source"
          data={sources.map(([value, label]) => ({ value, label }))}
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
  const hasSnapshots = (own.data?.length ?? 0) > 0;
  const from = parameters.get("from");
  const folder = parameters.get("folder");
  const isOwnFolder = status.data?.folders.some((one) => one.id === folder) ?? false;
  const remote = from
    ? from === "server"
    : hasServer && (isOwnFolder || (!isServer && !hasSnapshots));
  return (
    <Page
      title="Restore"
      lead="Choose a snapshot, browse it, and restore single files or all of it."
    >
      <Restores />
      {(canBoth || (hasServer && hasSnapshots)) && (
        <SegmentedControl
          aria-label="Where the snapshots are stored"
          value={remote ? "server" : "here"}
          onChange={(value) => setParameters({ from: value }, { replace: true })}
          data={[
            { value: "here", label: "On this computer" },
            { value: "server", label: "On the backup server" },
          ]}
        />
      )}
      {!status.data && <ErrorBox error={status.error} />}
      {!config.data && <ErrorBox error={config.error} onRetry={() => void config.refetch()} />}
      {/* The place of the snapshots is known only after all three have been loaded. */}
      {status.isPending || own.isLoading || config.isPending ? (
        <Loader aria-label="Loading" />
      ) : (
        <Choose key={String(remote)} remote={remote} />
      )}
    </Page>
  );
}
