// This computer as a backup server: its sources, its snapshots and its storage.

import {
  Anchor,
  Button,
  Card,
  Checkbox,
  Group,
  Loader,
  Modal,
  Progress,
  SimpleGrid,
  Stack,
  Table,
  Text,
  Title,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import {
  IconCheck,
  IconPlayerPause,
  IconPlayerPlay,
  IconPlus,
  IconRefresh,
  IconRotate,
} from "@tabler/icons-react";
import { useMemo, useState } from "react";
import { Link } from "react-router";

import type {
  Job,
  LastVerification,
  PruneReport,
  Snapshot,
  Source,
  Storage,
  VerifyResult,
} from "../api/model";
import {
  useAccept,
  useConfig,
  useJobs,
  usePoll,
  usePrune,
  useSetKey,
  useSnapshots,
  useStatus,
  useVerify,
} from "../api/queries";
import { bytes, count, counted, visibleName } from "../lib/format";
import { groupBySeries } from "../lib/choice";
import { sourceWord } from "../lib/words";
import { WorkBar } from "../parts/bar";
import { Dot, Facts, FileName, Id, Page, State, ErrorBox, When } from "../parts/basics";
import { StoredData } from "../parts/stored_data";
import { Section } from "../parts/section";

function Stored({ storage }: { storage: Storage }) {
  const room = storage.used_bytes + storage.available_bytes;
  const percent = room > 0 ? (storage.used_bytes / room) * 100 : 0;
  return (
    <div>
      <Facts
        facts={[
          ["Used", bytes(storage.used_bytes)],
          ["Still free for backups", bytes(storage.available_bytes)],
          [
            "Quota",
            storage.max_bytes == null ? "none, only the disk reserve" : bytes(storage.max_bytes),
          ],
          ["Blocks", count(storage.blocks)],
        ]}
      />
      <Progress
        value={percent}
        mt="sm"
        color={percent > 90 ? "red.8" : undefined}
        aria-label="Storage used"
      />
    </div>
  );
}

/** Placeholder for a value that is being loaded. */
const UNKNOWN = "…";

function SourceCard({ source, kept }: { source: Source; kept: Snapshot[] | undefined }) {
  const poll = usePoll();
  const accept = useAccept();
  const newest = kept?.reduce<Snapshot | undefined>(
    (best, one) => (!best || one.received_at > best.received_at ? one : best),
    undefined,
  );
  const folders = kept && new Set(kept.map((one) => one.folder_id)).size;
  const isBad = source.state === "failed" || source.state === "refused";
  return (
    <Card withBorder component="article" aria-label={source.name}>
      <Stack gap="sm">
        <Group justify="space-between" align="flex-start">
          <div style={{ minWidth: 0 }}>
            <Title order={3} size="h4">
              {source.name}
            </Title>
            <Id id={source.peer_id} what="the peer id" />
          </div>
          <State word={sourceWord(source.state)} detail={source.detail} />
        </Group>
        {source.detail && !source.errors.some((error) => error.includes(source.detail ?? "")) && (
          <Text size="sm">
            <FileName name={source.detail} />
          </Text>
        )}
        {source.errors.map((error) => (
          <ErrorBox key={error} error={error} />
        ))}
        {source.pulls.map((pull) => (
          <div key={`${pull.folder_id} ${pull.sequence}`}>
            <WorkBar
              label={`${visibleName(pull.folder_name)}, snapshot #${pull.sequence}`}
              done={pull.bytes_done}
              total={pull.bytes_total}
            />
            <Text size="xs" c="dimmed">
              {count(pull.files_done)} of {counted(pull.files_total, "file")}, since{" "}
              <When at={pull.started_at} />
            </Text>
          </div>
        ))}
        <Facts
          facts={[
            ["Last checked", <When key="poll" at={source.last_poll} isRelative />],
            [
              "Newest snapshot",
              newest ? (
                <When key="newest" at={newest.received_at} isRelative />
              ) : kept ? (
                "none yet"
              ) : (
                UNKNOWN
              ),
            ],
            ["Snapshots kept", kept ? count(kept.length) : UNKNOWN],
            ["Folders", folders === undefined ? UNKNOWN : count(folders)],
          ]}
        />
        <Group gap="xs">
          <Button
            leftSection={<IconRefresh size={18} />}
            loading={poll.isPending}
            onClick={() => poll.mutate(source.name)}
          >
            {isBad ? "Retry" : "Poll now"}
          </Button>
          {source.state === "refused" && (
            <Button
              leftSection={<IconCheck size={18} />}
              loading={accept.isPending}
              onClick={() => accept.mutate(source.name)}
            >
              Accept this source
            </Button>
          )}
        </Group>
        <ErrorBox error={poll.error ?? accept.error} />
      </Stack>
    </Card>
  );
}

function Decisions({ report }: { report: PruneReport }) {
  return (
    <Stack gap="sm">
      <Text>
        {report.removed.length === 0
          ? "No snapshot to remove: the retention rules keep all of them."
          : report.dry_run
            ? `${counted(report.removed.length, "snapshot")} would be removed, ${count(report.kept.length)} kept.`
            : `${counted(report.removed.length, "snapshot")} removed, ${count(report.kept.length)} kept. Disk space freed: ${bytes(report.freed_bytes)}.`}
      </Text>
      {report.not_collected && (
        <Dot tone="bad">No disk space could be freed: {report.not_collected}</Dot>
      )}
      {report.holds.map((hold) => (
        <Dot key={hold} tone="busy">
          {hold}
        </Dot>
      ))}
      {report.removed.length > 0 && (
        <div
          style={{ maxHeight: 240, overflow: "auto" }}
          tabIndex={0}
          role="group"
          aria-label="Snapshots to remove"
        >
          <Table fz="sm">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Folder</Table.Th>
                <Table.Th>Received</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {report.removed.map((one) => (
                <Table.Tr key={one.snapshot}>
                  <Table.Td>
                    <FileName name={one.folder_name} />
                  </Table.Td>
                  <Table.Td>
                    <When at={one.received_at} />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </Stack>
  );
}

function Prune() {
  const prune = usePrune();
  const [isOpen, opened] = useDisclosure();
  const open = () => {
    prune.mutate(true);
    opened.open();
  };
  return (
    <>
      <Button onClick={open}>Prune …</Button>
      <Modal opened={isOpen} onClose={opened.close} title="Remove old snapshots">
        <Stack>
          <Text size="sm" c="dimmed">
            This removes the snapshots that no retention rule keeps. The rules are under{" "}
            <Anchor component={Link} to="/settings">
              Settings
            </Anchor>
            , Backup server. The newest snapshot of every folder is always kept.
          </Text>
          {prune.isPending && <Loader aria-label="Checking" />}
          <ErrorBox error={prune.error} />
          {prune.data && <Decisions report={prune.data} />}
          <Group justify="flex-end">
            <Button onClick={opened.close}>Close</Button>
            {prune.data?.dry_run && prune.data.removed.length > 0 && (
              <Button
                variant="filled"
                color="red.9"
                loading={prune.isPending}
                onClick={() => prune.mutate(false)}
              >
                Remove {counted(prune.data.removed.length, "snapshot")}
              </Button>
            )}
          </Group>
        </Stack>
      </Modal>
    </>
  );
}

/** The nouns for the objects of a verification. */
const CHECKED = ["snapshot or data item", "snapshots and data items"] as const;

function VerifyEnd({
  result,
  problems = result.problems.length,
  endedAt,
}: {
  result: VerifyResult;
  /** Number of problems, if the list of the result is cut short. */
  problems?: number;
  endedAt?: string | null;
}) {
  return (
    <Stack gap="xs">
      <Dot tone={problems === 0 ? "good" : "bad"}>
        {problems === 0
          ? `No data is missing: ${counted(result.checked, ...CHECKED)}, ${counted(result.blocks, "block")}${
              result.read_bytes > 0 ? `, ${bytes(result.read_bytes)} read and compared` : ""
            }.`
          : `${counted(problems, "block")} missing or damaged.`}
        {result.repaired > 0 && ` ${counted(result.repaired, "block")} repaired.`}
        {endedAt && (
          <>
            {" "}
            Checked <When at={endedAt} />.
          </>
        )}
      </Dot>
      {(result.newer ?? []).length > 0 && (
        <Dot tone="warn">
          {counted((result.newer ?? []).length, ...CHECKED)} not checked completely, because a newer
          version of Archivist wrote them. Use that version.
        </Dot>
      )}
      {result.problems.slice(0, 100).map((problem) => (
        <Group key={problem.cid} gap="xs">
          <Id id={problem.cid} what="the block's CID" />
          <Text size="sm">{problem.reason}</Text>
          <Text size="sm" c="dimmed">
            needed by <FileName name={problem.concerns.join(", ")} />
          </Text>
        </Group>
      ))}
    </Stack>
  );
}

function VerifyJobEnd({ job }: { job: Job }) {
  const result = job.result as VerifyResult | null | undefined;
  if (job.state === "failed" || !result)
    return <ErrorBox error={job.error ?? "The check failed."} />;
  return <VerifyEnd result={result} endedAt={job.ended_at} />;
}

function Verify({ earlier }: { earlier: LastVerification | null | undefined }) {
  const jobs = useJobs();
  const verify = useVerify();
  const [full, setFull] = useState(false);
  const [repair, setRepair] = useState(false);
  const last = jobs.data?.filter((job) => job.kind === "verify").at(-1);
  const isRunning = last?.state === "running";
  return (
    <Section title="Verify" lead="Checks that no block of any snapshot or data item is missing.">
      <Stack gap="sm">
        <Checkbox
          label="Read and compare every byte"
          description="Takes as long as reading all stored data."
          checked={full}
          onChange={(event) => setFull(event.currentTarget.checked)}
        />
        <Checkbox
          label="Repair"
          description="Pulls missing and damaged blocks again from a peer that has them."
          checked={repair}
          onChange={(event) => setRepair(event.currentTarget.checked)}
        />
        <Group>
          <Button
            loading={verify.isPending || isRunning}
            onClick={() => verify.mutate({ full, repair })}
          >
            Verify now
          </Button>
        </Group>
        <ErrorBox error={verify.error} />
        {last && isRunning && (
          <WorkBar
            label="Verifying"
            done={last.progress_done}
            total={last.progress_total ?? 0}
            unit="items"
          />
        )}
        <div aria-live="polite">
          {last && !isRunning && <VerifyJobEnd job={last} />}
          {!last && jobs.data && earlier && (
            <VerifyEnd
              result={earlier.result}
              problems={earlier.problems}
              endedAt={earlier.ended_at}
            />
          )}
          {!last && jobs.data && !earlier && (
            <Text size="sm" c="dimmed">
              Not verified yet.
            </Text>
          )}
        </div>
      </Stack>
    </Section>
  );
}

/** Number of snapshots that the history shows at a time. */
const SHOWN = 20;

function History({ snapshots }: { snapshots: Snapshot[] }) {
  const [shown, setShown] = useState(SHOWN);
  const newestFirst = useMemo(
    () => [...snapshots].sort((a, b) => b.received_at.localeCompare(a.received_at)),
    [snapshots],
  );
  return (
    <Section title="Received snapshots">
      {newestFirst.length === 0 && <Text c="dimmed">None yet.</Text>}
      {newestFirst.length > 0 && (
        <div className="scroll" tabIndex={0} role="group" aria-label="Received snapshots">
          <Table fz="sm" miw={640}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Received</Table.Th>
                <Table.Th>Source</Table.Th>
                <Table.Th>Folder</Table.Th>
                <Table.Th ta="right">Snapshot</Table.Th>
                <Table.Th ta="right">Files</Table.Th>
                <Table.Th ta="right">Size</Table.Th>
                <Table.Th>Manifest</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {newestFirst.slice(0, shown).map((one) => (
                <Table.Tr key={one.id}>
                  <Table.Td style={{ whiteSpace: "nowrap" }}>
                    <When at={one.received_at} />
                  </Table.Td>
                  <Table.Td>{one.source}</Table.Td>
                  <Table.Td>
                    <Anchor
                      component={Link}
                      to={`/restore?from=here&series=${encodeURIComponent(`${one.source_peer_id}/${one.folder_id}`)}&at=${encodeURIComponent(one.id)}`}
                    >
                      <FileName name={one.folder_name} />
                    </Anchor>
                  </Table.Td>
                  <Table.Td ta="right">#{one.sequence}</Table.Td>
                  <Table.Td ta="right">{count(one.files)}</Table.Td>
                  <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>
                    {bytes(one.bytes)}
                  </Table.Td>
                  <Table.Td>
                    <Id id={one.manifest_cid} what="the manifest's CID" />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {newestFirst.length > shown && (
        <Button mt="sm" onClick={() => setShown(shown + SHOWN)}>
          Show more of {count(newestFirst.length)}
        </Button>
      )}
    </Section>
  );
}

/** Describes the number of snapshots, and the size of the newest one of each folder. */
function summary(snapshots: Snapshot[]): string {
  const all = groupBySeries(snapshots);
  const size = all.reduce((sum, series) => sum + (series.snapshots[0]?.bytes ?? 0), 0);
  return `${counted(snapshots.length, "snapshot")} of ${counted(all.length, "folder")}. Size of the newest: ${bytes(size)}.`;
}

export function Server() {
  const status = useStatus();
  const config = useConfig();
  const snapshots = useSnapshots(false);
  const set = useSetKey();
  const poll = usePoll();
  if (!status.data || !config.data) {
    return (
      <Page title="Backup server">
        {status.isError || config.isError ? (
          <ErrorBox error={status.error ?? config.error} />
        ) : (
          <Loader aria-label="Loading" />
        )}
      </Page>
    );
  }
  const isEnabled = Boolean(config.data.backup_server?.enabled);
  const sources = status.data.sources;
  const all = snapshots.data;
  const toggle = () =>
    set.mutate(
      { key: "backup_server.enabled", value: !isEnabled },
      {
        onSuccess: (changed) =>
          notifications.show({
            message: changed.applied
              ? isEnabled
                ? "Paused. Nothing is pulled."
                : "Enabled. Sources are checked from now on."
              : "Saved. Takes effect after a restart.",
            color: "green.8",
          }),
      },
    );
  return (
    <Page
      title="Backup server"
      lead="The backups that this computer keeps for other computers."
      actions={
        <>
          <Button
            variant={isEnabled ? "default" : "filled"}
            leftSection={isEnabled ? <IconPlayerPause size={18} /> : <IconPlayerPlay size={18} />}
            loading={set.isPending}
            onClick={toggle}
          >
            {isEnabled ? "Pause" : sources.length > 0 ? "Resume" : "Enable"}
          </Button>
          <Button
            leftSection={<IconRotate size={18} />}
            disabled={!isEnabled || sources.length === 0}
            loading={poll.isPending}
            onClick={() => poll.mutate(undefined)}
          >
            Poll all now
          </Button>
          <Button component={Link} to="/devices?pair=enter" leftSection={<IconPlus size={18} />}>
            Add a source
          </Button>
        </>
      }
    >
      <ErrorBox error={set.error ?? poll.error} />
      {!isEnabled && (
        <div className="band band-none" role="status">
          <Text fw={600}>The backup server is off: this computer pulls nothing.</Text>
          <Text size="sm">Stored snapshots are kept and can be restored.</Text>
        </div>
      )}
      {sources.length === 0 && (
        <Card withBorder>
          <Text>
            No computer is backed up here. Open Archivist on the computer to back up, choose Devices
            and Show a code, then enter that code here.
          </Text>
        </Card>
      )}
      <SimpleGrid cols={{ base: 1, md: sources.length > 1 ? 2 : 1 }}>
        {sources.map((source) => (
          <SourceCard
            key={source.name}
            source={source}
            kept={all?.filter((one) => one.source_peer_id === source.peer_id)}
          />
        ))}
      </SimpleGrid>
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Section title="Storage" action={<Prune />}>
          <Stored storage={status.data.storage} />
          <Text size="sm" c="dimmed" mt="sm">
            {all ? summary(all) : "Counting the snapshots …"}
          </Text>
        </Section>
        <Verify earlier={status.data.integrity?.last_verification} />
      </SimpleGrid>
      {status.data.integrity && <StoredData integrity={status.data.integrity} />}
      <ErrorBox error={snapshots.error} onRetry={() => void snapshots.refetch()} />
      {all && <History snapshots={all} />}
    </Page>
  );
}
