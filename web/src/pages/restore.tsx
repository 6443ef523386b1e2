// Getting things back: which machine, folder and moment; then what.

import {
  Alert, Anchor, Breadcrumbs, Button, Card, Checkbox, Drawer, Group, Loader, Modal, SegmentedControl, Select, Stack,
  Table, Text, TextInput, Title,
} from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useInfiniteQuery } from "@tanstack/react-query";
import {
  IconDownload, IconFile, IconFolder, IconLink, IconRestore, IconSearch, IconVersions,
} from "@tabler/icons-react";
import { useEffect, useMemo, useState } from "react";
import { useSearchParams } from "react-router";

import { downloadUrl } from "../api/client";
import type { ListedEntry, Snapshot } from "../api/model";
import {
  entriesPage, hasBackupServer, PAGE, type Place, useConfig, useRestore, useSearch, useSnapshots, useStatus, useVersions,
} from "../api/queries";
import { choose, type Line, lines, newestAt, trail } from "../lib/choice";
import { bytes, count, counted, fromNanoseconds, lastName, permissions, visibleName } from "../lib/format";
import { FileName, Page, Trouble, When } from "../parts/basics";
import { DirectoryPicker } from "../parts/directory_picker";
import { Restores } from "../parts/restores";

/** An entry that can be named whatever its bytes are. */
const keyOf = (entry: ListedEntry) => entry.path_base64 ?? entry.path;

function placeOf(entry: ListedEntry, snapshot: string, remote: boolean): Place {
  return { snapshot, path: entry.path, pathBase64: entry.path_base64, remote };
}

function fileUrl(place: Place, kind: "file" | "zip"): string {
  return downloadUrl(`/snapshots/${encodeURIComponent(place.snapshot)}/${kind}`, {
    path: place.path,
    path_base64: place.pathBase64,
    from_backup_server: place.remote,
  });
}

function Timeline({ line, chosen, onChoose }: { line: Line; chosen: Snapshot; onChoose: (snapshot: Snapshot) => void }) {
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
          There is no version as old as that; the oldest is from <When at={line.snapshots.at(-1)?.created_at} />.
        </Text>
      )}
      <div className="timeline" role="group" aria-labelledby="moment">
        {line.snapshots.slice(0, 200).map((snapshot, index) => (
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
      {chosen.held && (
        <Alert title="This version is doubtful" mt="xs">
          {chosen.held} An older one may be the better.
        </Alert>
      )}
      <Text size="sm" c="dimmed">
        Version #{chosen.sequence}, made <When at={chosen.created_at} />, complete on the backup server{" "}
        <When at={chosen.received_at} />. {counted(chosen.files, "file")}, {bytes(chosen.bytes)}.
      </Text>
    </div>
  );
}

function Kind({ entry }: { entry: ListedEntry }) {
  const [Icon, name] =
    entry.type === "dir" ? [IconFolder, "Directory"] : entry.type === "symlink" ? [IconLink, "Link"] : [IconFile, "File"];
  return <Icon size={18} aria-label={name} style={{ flex: "none" }} />;
}

interface RowActions {
  onOpen: (entry: ListedEntry) => void;
  onDetails: (entry: ListedEntry) => void;
  onToggle: (entry: ListedEntry) => void;
  isChosen: (entry: ListedEntry) => boolean;
}

function Rows({ entries, actions, isWhole }: { entries: ListedEntry[]; actions: RowActions; isWhole: boolean }) {
  return (
    <Table verticalSpacing={2} highlightOnHover>
      <Table.Thead>
        <Table.Tr>
          <Table.Th w={40}>
            <span className="skip">Choose</span>
          </Table.Th>
          <Table.Th>Name</Table.Th>
          <Table.Th ta="right">Size</Table.Th>
          <Table.Th visibleFrom="xs">Changed</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {entries.map((entry) => (
          <Table.Tr key={keyOf(entry)}>
            <Table.Td>
              <Checkbox
                aria-label={`Choose ${visibleName(entry.path)}`}
                checked={actions.isChosen(entry)}
                onChange={() => actions.onToggle(entry)}
              />
            </Table.Td>
            <Table.Td>
              <button
                type="button"
                className="row-button"
                onClick={() => (entry.type === "dir" ? actions.onOpen(entry) : actions.onDetails(entry))}
              >
                <Kind entry={entry} />
                <FileName name={isWhole ? entry.path : lastName(entry.path)} />
                {entry.error && <span className="ink-bad">!</span>}
              </button>
            </Table.Td>
            <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>
              {entry.size_bytes == null ? "" : bytes(entry.size_bytes)}
            </Table.Td>
            <Table.Td visibleFrom="xs" style={{ whiteSpace: "nowrap" }}>
              <When at={fromNanoseconds(entry.mtime_ns)} />
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}

/** One file: what it is, its versions, and ways to have it. */
function Details({
  entry, snapshot, line, remote, onClose, onRestore,
}: {
  entry: ListedEntry;
  snapshot: Snapshot;
  line: Line;
  remote: boolean;
  onClose: () => void;
  onRestore: (snapshot: Snapshot, entries: ListedEntry[]) => void;
}) {
  const place = placeOf(entry, snapshot.id, remote);
  const versions = useVersions(place, line.sourcePeerId, line.folderId, true);
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size="lg"
      title={<FileName name={lastName(entry.path)} />}
      closeButtonProps={{ "aria-label": "Close" }}
    >
      <Stack>
        <Text size="sm">
          <FileName name={entry.path} />
        </Text>
        <Text size="sm" c="dimmed">
          {entry.type === "symlink" ? (
            <>
              Link to <FileName name={entry.target ?? ""} />
            </>
          ) : (
            `${bytes(entry.size_bytes ?? 0)}, ${permissions(entry.mode)}`
          )}
          , changed <When at={fromNanoseconds(entry.mtime_ns)} />
        </Text>
        {entry.error && <Trouble error={entry.error} />}
        <Group>
          {entry.type === "file" && (
            <Button component="a" href={fileUrl(place, "file")} download variant="filled" leftSection={<IconDownload size={18} />}>
              Download
            </Button>
          )}
          <Button leftSection={<IconRestore size={18} />} onClick={() => onRestore(snapshot, [entry])}>
            Restore …
          </Button>
        </Group>
        <Title order={3} size="h5">
          <Group gap={6}>
            <IconVersions size={18} aria-hidden /> Versions of this file
          </Group>
        </Title>
        {versions.isPending && <Loader size="sm" aria-label="Loading" />}
        <Trouble error={versions.error} />
        {versions.data?.map((version) => {
          const one = line.snapshots.find((snapshot) => snapshot.id === version.snapshot);
          return (
            <Group key={version.snapshot} justify="space-between" gap="xs">
              <Text size="sm">
                <When at={fromNanoseconds(version.entry.mtime_ns)} /> · {bytes(version.entry.size_bytes ?? 0)} · in
                version #{version.sequence}
                {version.snapshot === snapshot.id ? " (this one)" : ""}
              </Text>
              <Group gap={4}>
                {version.entry.type === "file" && (
                  <Button size="compact-sm" component="a" href={fileUrl(placeOf(version.entry, version.snapshot, remote), "file")} download>
                    Download<span className="skip"> version #{version.sequence}</span>
                  </Button>
                )}
                {one && (
                  <Button size="compact-sm" onClick={() => onRestore(one, [version.entry])}>
                    Restore …
                  </Button>
                )}
              </Group>
            </Group>
          );
        })}
      </Stack>
    </Drawer>
  );
}

/** Where to, and off. */
function RestoreForm({
  snapshot, entries, remote, onClose,
}: {
  snapshot: Snapshot;
  entries: ListedEntry[];
  remote: boolean;
  onClose: () => void;
}) {
  const [target, setTarget] = useState("");
  const [overwrite, setOverwrite] = useState(false);
  const restore = useRestore();
  return (
    <Modal opened onClose={onClose} title="Restore to a directory">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          restore.mutate(
            {
              snapshot: snapshot.id,
              target,
              overwrite,
              from_backup_server: remote,
              paths: entries.filter((entry) => !entry.path_base64).map((entry) => entry.path),
              paths_base64: entries.flatMap((entry) => (entry.path_base64 ? [entry.path_base64] : [])),
            },
            { onSuccess: onClose },
          );
        }}
      >
        <Stack>
          <Text>
            {entries.length === 0
              ? `All of ${visibleName(snapshot.folder_name)}`
              : entries.length === 1
                ? visibleName(entries[0]?.path ?? "")
                : `${entries.length} chosen entries of ${visibleName(snapshot.folder_name)}`}{" "}
            as of <When at={snapshot.created_at} />.
          </Text>
          <DirectoryPicker
            label="Into the directory"
            description="On the machine that Archivist runs on; it is made where it is not there. Nothing is written outside it."
            value={target}
            onChange={setTarget}
          />
          <Checkbox
            label="Replace what is in the way"
            description="Otherwise files that are there already are left alone, and listed."
            checked={overwrite}
            onChange={(event) => setOverwrite(event.currentTarget.checked)}
          />
          <Trouble error={restore.error} />
          <Group justify="flex-end">
            <Button onClick={onClose}>Cancel</Button>
            <Button type="submit" variant="filled" loading={restore.isPending} disabled={!target.startsWith("/")}>
              Restore
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

function Browser({ line, snapshot, remote }: { line: Line; snapshot: Snapshot; remote: boolean }) {
  const [dir, setDir] = useState<{ path: string; base64?: string | null }>({ path: "" });
  const [text, setText] = useState("");
  const [search] = useDebouncedValue(text.trim(), 300);
  const [chosen, setChosen] = useState<Map<string, ListedEntry>>(new Map());
  const [details, setDetails] = useState<ListedEntry>();
  const [restoring, setRestoring] = useState<{ snapshot: Snapshot; entries: ListedEntry[] }>();
  // Another moment may not have what was chosen.
  useEffect(() => {
    setChosen(new Map());
    setDetails(undefined);
  }, [snapshot.id]);
  const place: Place = { snapshot: snapshot.id, path: dir.path, pathBase64: dir.base64, remote };
  const pages = useInfiniteQuery({
    queryKey: ["entries", place],
    queryFn: ({ pageParam, signal }) => entriesPage(place, pageParam, signal),
    initialPageParam: undefined as ListedEntry | undefined,
    getNextPageParam: (page) => (page.length < PAGE ? undefined : page.at(-1)),
    staleTime: 300_000,
  });
  const found = useSearch({ ...place, path: "", pathBase64: undefined }, search);
  const entries = useMemo(() => pages.data?.pages.flat() ?? [], [pages.data]);
  const actions: RowActions = {
    onOpen: (entry) => {
      setText("");
      setDir({ path: entry.path, base64: entry.path_base64 });
    },
    onDetails: setDetails,
    onToggle: (entry) => {
      const next = new Map(chosen);
      if (!next.delete(keyOf(entry))) next.set(keyOf(entry), entry);
      setChosen(next);
    },
    isChosen: (entry) => chosen.has(keyOf(entry)),
  };
  const one = chosen.size === 1 ? [...chosen.values()][0] : undefined;
  const zipOf: Place = one?.type === "dir" ? placeOf(one, snapshot.id, remote) : place;
  return (
    <Card withBorder>
      <Stack gap="sm">
        <TextInput
          aria-label="Search names in this version"
          placeholder="Search names in this version"
          leftSection={<IconSearch size={16} aria-hidden />}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
        />
        {!search && (
          <Breadcrumbs styles={{ root: { flexWrap: "wrap", rowGap: 4 } }}>
            <Anchor component="button" type="button" onClick={() => setDir({ path: "" })}>
              <FileName name={line.folderName} />
            </Anchor>
            {/* A path that is not UTF-8 cannot be cut into names here. */}
            {dir.base64 ? (
              <FileName name={dir.path} />
            ) : (
              trail(dir.path).map((step) => (
                <Anchor key={step.path} component="button" type="button" onClick={() => setDir({ path: step.path })}>
                  <FileName name={step.name} />
                </Anchor>
              ))
            )}
          </Breadcrumbs>
        )}
        <Group gap="xs">
          <Button
            variant="filled"
            leftSection={<IconRestore size={18} />}
            onClick={() => setRestoring({ snapshot, entries: [...chosen.values()] })}
          >
            {chosen.size > 0 ? `Restore ${counted(chosen.size, "entry", "entries")} …` : "Restore all of it …"}
          </Button>
          <Button component="a" href={fileUrl(zipOf, "zip")} download leftSection={<IconDownload size={18} />}>
            {one?.type === "dir"
              ? `Zip of ${visibleName(lastName(one.path))}`
              : dir.path
                ? "Zip of this directory"
                : "Zip of the whole folder"}
          </Button>
          {chosen.size > 0 && <Button onClick={() => setChosen(new Map())}>Choose nothing</Button>}
        </Group>
        {search ? (
          <>
            {found.isPending && <Loader size="sm" aria-label="Searching" />}
            <Trouble error={found.error} />
            {found.data && (
              <>
                <Text size="sm" role="status">
                  {counted(found.data.entries.length, "name")} with “{search}”
                  {found.data.is_cut_short ? ", and more: type more of it" : ""}
                </Text>
                <div className="scroll">
                  <Rows entries={found.data.entries} actions={actions} isWhole />
                </div>
              </>
            )}
          </>
        ) : (
          <>
            {pages.isPending && <Loader size="sm" aria-label="Loading" />}
            <Trouble error={pages.error} onRetry={() => void pages.refetch()} />
            {pages.data && entries.length === 0 && <Text c="dimmed">There is nothing in it.</Text>}
            {entries.length > 0 && (
              <div className="scroll">
                <Rows entries={entries} actions={actions} isWhole={false} />
              </div>
            )}
            {pages.hasNextPage && (
              <Button loading={pages.isFetchingNextPage} onClick={() => void pages.fetchNextPage()}>
                Show more
              </Button>
            )}
          </>
        )}
      </Stack>
      {details && (
        <Details
          entry={details}
          snapshot={snapshot}
          line={line}
          remote={remote}
          onClose={() => setDetails(undefined)}
          onRestore={(from, entries) => {
            setDetails(undefined);
            setRestoring({ snapshot: from, entries });
          }}
        />
      )}
      {restoring && <RestoreForm {...restoring} remote={remote} onClose={() => setRestoring(undefined)} />}
    </Card>
  );
}

function Choose({ remote }: { remote: boolean }) {
  const snapshots = useSnapshots(remote);
  const [parameters, setParameters] = useSearchParams();
  const [before, setBefore] = useState<{ line: string; at: string }>();
  // What is shown in the place of one that is gone.
  const [instead, setInstead] = useState<string>();
  const all = useMemo(() => lines(snapshots.data ?? []), [snapshots.data]);
  const asked = { line: parameters.get("line"), folder: parameters.get("folder"), at: parameters.get("at") };
  const shown = choose(all, asked, before);
  // What is looked at stays, whatever arrives meanwhile.
  const [line, at, isGone] = [shown?.line.key, shown?.snapshot.id, shown?.isGone];
  useEffect(() => {
    if (line === undefined || at === undefined) return;
    setBefore({ line, at });
    if (isGone) setInstead(at);
  }, [line, at, isGone]);
  if (snapshots.isPending) return <Loader aria-label="Loading" />;
  const trouble = <Trouble error={snapshots.error} onRetry={() => void snapshots.refetch()} />;
  if (!snapshots.data) return trouble;
  if (!shown) {
    return (
      <>
        {trouble}
        <Text>
          {remote ? "The backup server holds no version of this machine's folders yet." : "This machine holds no backups of other machines."}
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
          <Lines all={all} chosen={shown.line} remote={remote} onChoose={(one) => set({ line: one.key, at: undefined })} />
          {(shown.isGone || shown.snapshot.id === instead) && (
            <Text className="ink-bad" role="status">
              The version that was looked at is not there any more; another is shown.
            </Text>
          )}
          {shown.hasNewer && (
            <Group gap="xs" role="status">
              <Text size="sm">A newer version has come.</Text>
              <Button size="compact-sm" onClick={() => setBefore({ line: shown.line.key, at: shown.newest })}>
                Show the newest
              </Button>
            </Group>
          )}
          <Timeline key={shown.line.key} line={shown.line} chosen={shown.snapshot} onChoose={(one) => set({ at: one.id })} />
        </Stack>
      </Card>
      <Browser key={shown.line.key} line={shown.line} snapshot={shown.snapshot} remote={remote} />
    </>
  );
}

/** Which machine, and which folder of it. */
function Lines({
  all, chosen, remote, onChoose,
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
    <Page title="Restore" lead="Choose a moment, look around in it, and take back a file or all of it.">
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
