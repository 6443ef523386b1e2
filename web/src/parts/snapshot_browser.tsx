// The contents of one snapshot: browse, search, select, download, restore.

import {
  Anchor,
  Breadcrumbs,
  Button,
  Card,
  Checkbox,
  Drawer,
  Group,
  Loader,
  Modal,
  Stack,
  Table,
  Text,
  TextInput,
  Title,
} from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useInfiniteQuery } from "@tanstack/react-query";
import {
  IconDownload,
  IconFile,
  IconFolder,
  IconLink,
  IconRestore,
  IconSearch,
  IconVersions,
} from "@tabler/icons-react";
import { useMemo, useState } from "react";

import { downloadUrl } from "../api/client";
import type { ListedEntry, Snapshot } from "../api/model";
import { entriesPage, PAGE, type Place, useRestore, useSearch, useVersions } from "../api/queries";
import { breadcrumbs, type Series } from "../lib/choice";
import { bytes, counted, fromNanoseconds, lastName, permissions, visibleName } from "../lib/format";
import { DownloadButton, FileName, ErrorBox, When } from "./basics";
import { DirectoryPicker } from "./directory_picker";

/** Returns the exact path of an entry: in Base64 if it is not UTF-8. */
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

function Kind({ entry }: { entry: ListedEntry }) {
  const [Icon, name] =
    entry.type === "dir"
      ? [IconFolder, "Directory"]
      : entry.type === "symlink"
        ? [IconLink, "Link"]
        : [IconFile, "File"];
  return <Icon size={18} aria-label={name} style={{ flex: "none" }} />;
}

interface RowActions {
  onOpen: (entry: ListedEntry) => void;
  onDetails: (entry: ListedEntry) => void;
  onToggle: (entry: ListedEntry) => void;
  isChosen: (entry: ListedEntry) => boolean;
}

function Rows({
  entries,
  actions,
  isWhole,
}: {
  entries: ListedEntry[];
  actions: RowActions;
  isWhole: boolean;
}) {
  return (
    <Table verticalSpacing={2} highlightOnHover>
      <Table.Thead>
        <Table.Tr>
          <Table.Th w={40}>
            <span className="skip">Select</span>
          </Table.Th>
          <Table.Th>Name</Table.Th>
          <Table.Th ta="right">Size</Table.Th>
          <Table.Th visibleFrom="xs">Modified</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {entries.map((entry) => (
          <Table.Tr key={keyOf(entry)}>
            <Table.Td>
              <Checkbox
                aria-label={`Select ${visibleName(entry.path)}`}
                checked={actions.isChosen(entry)}
                onChange={() => actions.onToggle(entry)}
              />
            </Table.Td>
            <Table.Td>
              <button
                type="button"
                className="row-button"
                onClick={() =>
                  entry.type === "dir" ? actions.onOpen(entry) : actions.onDetails(entry)
                }
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

/** One file: its attributes, its versions, and buttons to download or restore it. */
function Details({
  entry,
  snapshot,
  series,
  remote,
  onClose,
  onRestore,
}: {
  entry: ListedEntry;
  snapshot: Snapshot;
  series: Series;
  remote: boolean;
  onClose: () => void;
  onRestore: (snapshot: Snapshot, entries: ListedEntry[]) => void;
}) {
  const place = placeOf(entry, snapshot.id, remote);
  const versions = useVersions(place, series.sourcePeerId, series.folderId, true);
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
          , modified <When at={fromNanoseconds(entry.mtime_ns)} />
        </Text>
        {entry.error && <ErrorBox error={entry.error} />}
        <Group>
          {entry.type === "file" && (
            <DownloadButton
              address={fileUrl(place, "file")}
              variant="filled"
              leftSection={<IconDownload size={18} />}
            >
              Download
            </DownloadButton>
          )}
          <Button
            leftSection={<IconRestore size={18} />}
            onClick={() => onRestore(snapshot, [entry])}
          >
            Restore …
          </Button>
        </Group>
        <Title order={3} size="h5">
          <Group gap={6}>
            <IconVersions size={18} aria-hidden /> Versions of this file
          </Group>
        </Title>
        {versions.isPending && <Loader size="sm" aria-label="Loading" />}
        <ErrorBox error={versions.error} />
        {versions.data?.map((version) => {
          const one = series.snapshots.find((snapshot) => snapshot.id === version.snapshot);
          return (
            <Group key={version.snapshot} justify="space-between" gap="xs">
              <Text size="sm">
                <When at={fromNanoseconds(version.entry.mtime_ns)} /> ·{" "}
                {bytes(version.entry.size_bytes ?? 0)} · in snapshot #{version.sequence}
                {version.snapshot === snapshot.id ? " (this one)" : ""}
              </Text>
              <Group gap={4}>
                {version.entry.type === "file" && (
                  <DownloadButton
                    size="compact-sm"
                    address={fileUrl(placeOf(version.entry, version.snapshot, remote), "file")}
                  >
                    Download<span className="skip"> from snapshot #{version.sequence}</span>
                  </DownloadButton>
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

/** The dialog that asks for the target and starts a restore. */
function RestoreForm({
  snapshot,
  entries,
  remote,
  onClose,
}: {
  snapshot: Snapshot;
  entries: ListedEntry[];
  remote: boolean;
  onClose: () => void;
}) {
  const [target, setTarget] = useState("");
  const [overwrite, setOverwrite] = useState(false);
  const [numericOwner, setNumericOwner] = useState(false);
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
              numeric_owner: numericOwner,
              from_backup_server: remote,
              paths: entries.filter((entry) => !entry.path_base64).map((entry) => entry.path),
              paths_base64: entries.flatMap((entry) =>
                entry.path_base64 ? [entry.path_base64] : [],
              ),
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
                : `${entries.length} selected entries of ${visibleName(snapshot.folder_name)}`}{" "}
            as of <When at={snapshot.created_at} />.
          </Text>
          <DirectoryPicker
            label="Target directory"
            description="A directory on this computer. It is created if it does not exist. Nothing is written outside it."
            value={target}
            onChange={setTarget}
          />
          <Checkbox
            label="Replace existing files"
            description="Otherwise files that already exist are not replaced. The result lists them."
            checked={overwrite}
            onChange={(event) => setOverwrite(event.currentTarget.checked)}
          />
          <Checkbox
            label="Owners by number"
            description="Otherwise files get the owners of the same names on this computer, if they exist. Only an instance that runs as root can set owners."
            checked={numericOwner}
            onChange={(event) => setNumericOwner(event.currentTarget.checked)}
          />
          <ErrorBox error={restore.error} />
          <Group justify="flex-end">
            <Button onClick={onClose}>Cancel</Button>
            <Button
              type="submit"
              variant="filled"
              loading={restore.isPending}
              disabled={!target.startsWith("/")}
            >
              Restore
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

export function SnapshotBrowser({
  series,
  snapshot,
  remote,
}: {
  series: Series;
  snapshot: Snapshot;
  remote: boolean;
}) {
  const [dir, setDir] = useState<{ path: string; base64?: string | null }>({ path: "" });
  const [text, setText] = useState("");
  const [search] = useDebouncedValue(text.trim(), 300);
  const [chosen, setChosen] = useState<Map<string, ListedEntry>>(new Map());
  const [details, setDetails] = useState<ListedEntry>();
  const [restoring, setRestoring] = useState<{ snapshot: Snapshot; entries: ListedEntry[] }>();
  // Another snapshot may not contain the selected entries.
  const [of, setOf] = useState(snapshot.id);
  if (of !== snapshot.id) {
    setOf(snapshot.id);
    setChosen(new Map());
    setDetails(undefined);
  }
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
          aria-label="Search names in this snapshot"
          placeholder="Search names in this snapshot"
          leftSection={<IconSearch size={16} aria-hidden />}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
        />
        {!search && (
          <Breadcrumbs styles={{ root: { flexWrap: "wrap", rowGap: 4 } }}>
            <Anchor component="button" type="button" onClick={() => setDir({ path: "" })}>
              <FileName name={series.folderName} />
            </Anchor>
            {/* A path that is not UTF-8 cannot be split into names here. */}
            {dir.base64 ? (
              <FileName name={dir.path} />
            ) : (
              breadcrumbs(dir.path).map((step) => (
                <Anchor
                  key={step.path}
                  component="button"
                  type="button"
                  onClick={() => setDir({ path: step.path })}
                >
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
            {chosen.size > 0
              ? `Restore ${counted(chosen.size, "entry", "entries")} …`
              : "Restore everything …"}
          </Button>
          <DownloadButton address={fileUrl(zipOf, "zip")} leftSection={<IconDownload size={18} />}>
            {one?.type === "dir"
              ? `Zip of ${visibleName(lastName(one.path))}`
              : dir.path
                ? "Zip of this directory"
                : "Zip of the whole folder"}
          </DownloadButton>
          {chosen.size > 0 && <Button onClick={() => setChosen(new Map())}>Clear selection</Button>}
        </Group>
        {search ? (
          <>
            {found.isPending && <Loader size="sm" aria-label="Searching" />}
            <ErrorBox error={found.error} />
            {found.data && (
              <>
                <Text size="sm" role="status">
                  {counted(found.data.entries.length, "name contains", "names contain")} “{search}”.
                  {found.data.is_cut_short ? " There are more: refine the search." : ""}
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
            <ErrorBox error={pages.error} onRetry={() => void pages.refetch()} />
            {pages.data && entries.length === 0 && <Text c="dimmed">This directory is empty.</Text>}
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
          series={series}
          remote={remote}
          onClose={() => setDetails(undefined)}
          onRestore={(from, entries) => {
            setDetails(undefined);
            setRestoring({ snapshot: from, entries });
          }}
        />
      )}
      {restoring && (
        <RestoreForm {...restoring} remote={remote} onClose={() => setRestoring(undefined)} />
      )}
    </Card>
  );
}
