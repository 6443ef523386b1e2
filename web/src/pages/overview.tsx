// The overview: a headline that says which data is safe, and a card for each folder.

import {
  Button,
  Card,
  Group,
  Loader,
  SimpleGrid,
  Skeleton,
  Stack,
  Text,
  Title,
} from "@mantine/core";
import { BarChart, type ChartSeries } from "@mantine/charts";
import { useDisclosure } from "@mantine/hooks";
import { IconPlus, IconUpload } from "@tabler/icons-react";
import { useMemo } from "react";
import { Link } from "react-router";

import type { Notice, Status } from "../api/model";
import {
  hasBackupServer,
  useBackupNow,
  useConfig,
  useSnapshots,
  useStatus,
  useTraffic,
} from "../api/queries";
import { bytes, counted, visibleName } from "../lib/format";
import { byDay, type Day } from "../lib/history";
import { announced, truth, type Truth } from "../lib/truth";
import { sourceWord } from "../lib/words";
import { WorkBar } from "../parts/bar";
import { Announce, Dot, FileName, Hint, Page, State, ErrorBox, When } from "../parts/basics";
import { BackupSteps, FolderCard } from "../parts/folder_card";
import { AddFolderModal } from "../parts/folder_forms";
import { Section } from "../parts/section";

function Sentence({ truth }: { truth: Truth }) {
  return (
    <div className={`band band-${truth.mood}`}>
      <Text size="xl" fw={600}>
        {truth.upTo ? (
          <>
            Everything up to <When at={truth.upTo} /> <FileName name={truth.text} />
          </>
        ) : (
          <FileName name={truth.text} />
        )}
      </Text>
      {truth.confirmedAt && (
        <Text>
          Last confirmed snapshot: <When at={truth.confirmedAt} />.
        </Text>
      )}
      {truth.next && (
        <Text>
          <FileName name={truth.next} />
        </Text>
      )}
    </div>
  );
}

export function Notices({ notices }: { notices: Notice[] }) {
  if (notices.length === 0) return null;
  return (
    <Section title="Needs attention">
      <Stack gap="sm">
        {notices.map((notice) => (
          <Dot
            key={notice.message}
            tone={notice.level === "error" ? "bad" : notice.level === "warning" ? "warn" : "quiet"}
          >
            <FileName name={notice.message} />
            {notice.action && (
              <Text size="sm" c="dimmed">
                <Hint text={notice.action} />
              </Text>
            )}
          </Dot>
        ))}
      </Stack>
    </Section>
  );
}

/** The two ways to start, shown while nothing is set up. */
function FirstRun({ onAdd }: { onAdd: () => void }) {
  return (
    <SimpleGrid cols={{ base: 1, sm: 2 }}>
      <Card withBorder>
        <Stack h="100%" justify="space-between">
          <div>
            <Title order={2} size="h4">
              Back up a folder of this computer
            </Title>
            <Text c="dimmed">
              Choose the folder, then pair with the computer that will keep the backups.
            </Text>
          </div>
          <Button variant="filled" leftSection={<IconPlus size={18} />} onClick={onAdd}>
            Choose a folder
          </Button>
        </Stack>
      </Card>
      <Card withBorder>
        <Stack h="100%" justify="space-between">
          <div>
            <Title order={2} size="h4">
              Keep the backups of another computer
            </Title>
            <Text c="dimmed">
              The other computer shows a code. Entering it here sets up both computers.
            </Text>
          </div>
          <Button component={Link} to="/devices?pair=enter">
            Enter a pairing code
          </Button>
        </Stack>
      </Card>
    </SimpleGrid>
  );
}

/** A small chart of the last days. */
function Days({
  label,
  days,
  series,
  format,
}: {
  label: string;
  days: Day[];
  series: ChartSeries[];
  format?: (value: number) => string;
}) {
  return (
    <figure style={{ margin: 0 }}>
      <Text size="xs" c="dimmed" component="figcaption">
        {label}
      </Text>
      <BarChart
        h={150}
        data={days.map((day) => ({ ...day, day: day.day.slice(5) }))}
        dataKey="day"
        type="stacked"
        series={series}
        valueFormatter={format}
        barProps={{ isAnimationActive: false }}
        barChartProps={{ accessibilityLayer: false }}
        aria-hidden
        yAxisProps={{ allowDecimals: false, width: format ? 70 : 30 }}
      />
    </figure>
  );
}

function History({ status, hasServer }: { status: Status; hasServer: boolean | undefined }) {
  const isServer = status.sources.length > 0;
  const isShown = isServer || hasServer === true;
  const snapshots = useSnapshots(!isServer, isShown);
  const traffic = useTraffic(isShown);
  const days = useMemo(
    () => byDay(snapshots.data ?? [], traffic.data ?? [], new Date(), 14),
    [snapshots.data, traffic.data],
  );
  if (!isShown) return null;
  const sum = (of: (day: Day) => number) => days.reduce((total, day) => total + of(day), 0);
  const last = days.at(-1)?.bytes ?? 0;
  const [sent, received] = [sum((day) => day.sent), sum((day) => day.received)];
  return (
    <Section title="The last 14 days">
      {(snapshots.isPending || traffic.isPending) && (
        <Loader size="sm" mt="sm" aria-label="Loading" />
      )}
      {snapshots.isError && (
        <ErrorBox error={snapshots.error} onRetry={() => void snapshots.refetch()} />
      )}
      {traffic.isError && <ErrorBox error={traffic.error} onRetry={() => void traffic.refetch()} />}
      {snapshots.data && traffic.data && (
        <>
          <Text size="sm" c="dimmed" mb="sm">
            {counted(
              sum((day) => day.snapshots),
              "snapshot",
            )}{" "}
            {isServer ? "received here" : "received by the backup server"}. Size of the newest
            snapshots: {bytes(last)}. Sent: {bytes(sent)}. Received: {bytes(received)}.
          </Text>
          {(last > 0 || sent + received > 0) && (
            <SimpleGrid cols={{ base: 1, sm: 3 }}>
              <Days
                label="Snapshots per day"
                days={days}
                series={[{ name: "snapshots", label: "Snapshots", color: "blue.6" }]}
              />
              <Days
                label="Sent and received per day"
                days={days}
                series={[
                  { name: "sent", label: "Sent", color: "grape.6" },
                  { name: "received", label: "Received", color: "orange.6" },
                ]}
                format={bytes}
              />
              <Days
                label="Size of the newest snapshots"
                days={days}
                series={[{ name: "bytes", label: "Size", color: "teal.6" }]}
                format={bytes}
              />
            </SimpleGrid>
          )}
        </>
      )}
    </Section>
  );
}

export function Overview() {
  const status = useStatus();
  const config = useConfig();
  const hasServer = hasBackupServer(config.data);
  const [isAdding, adding] = useDisclosure();
  const all = useBackupNow();
  if (!status.data) {
    return (
      <Page title="Overview">
        {status.isPending ? <Loader aria-label="Loading" /> : <ErrorBox error={status.error} />}
      </Page>
    );
  }
  const { folders, sources, storage, notices } = status.data;
  const truths = truth(status.data, hasServer);
  return (
    <Page
      title="Overview"
      actions={
        folders.length > 0 && (
          <>
            {folders.length > 1 && (
              <Button
                leftSection={<IconUpload size={18} />}
                loading={all.isPending}
                onClick={() => all.mutate(undefined)}
              >
                Back up all now
              </Button>
            )}
            <Button leftSection={<IconPlus size={18} />} onClick={adding.open}>
              Add a folder
            </Button>
          </>
        )
      }
    >
      <Stack gap="sm">
        {truths.map((one) => (
          <Sentence key={one.text} truth={one} />
        ))}
        {folders.length > 0 && hasServer === undefined && !config.isError && (
          <Skeleton h={72} aria-label="Loading" />
        )}
        {!config.data && <ErrorBox error={config.error} onRetry={() => void config.refetch()} />}
      </Stack>
      {/* Without the times in the headlines: a screen reader would read out every change. */}
      <Announce text={truths.map(announced).join(" ")} />
      <BackupSteps backup={all} />
      {folders.length > 0 && hasServer === false && (
        <Group>
          <Button variant="filled" component={Link} to="/devices?pair=show">
            Pair with a backup server
          </Button>
        </Group>
      )}
      {folders.length === 0 && sources.length === 0 && <FirstRun onAdd={adding.open} />}
      <Notices notices={notices} />
      {folders.length > 0 && (
        <SimpleGrid cols={{ base: 1, md: folders.length > 1 ? 2 : 1 }}>
          {folders.map((folder) => (
            <FolderCard key={folder.id} folder={folder} />
          ))}
        </SimpleGrid>
      )}
      {sources.length > 0 && (
        <Section title="Sources: computers that are backed up here" label="Sources">
          <Stack gap="md">
            {sources.map((source) => (
              <Stack key={source.name} gap={6}>
                <Group justify="space-between">
                  <Group gap="sm">
                    <Text fw={600}>{source.name}</Text>
                    <State word={sourceWord(source.state)} detail={source.detail} />
                  </Group>
                  <Text size="sm" c="dimmed">
                    checked <When at={source.last_poll} isRelative />
                  </Text>
                </Group>
                {source.pulls.map((pull) => (
                  <WorkBar
                    key={pull.folder_id}
                    label={`${visibleName(pull.folder_name)} #${pull.sequence}`}
                    done={pull.bytes_done}
                    total={pull.bytes_total}
                  />
                ))}
              </Stack>
            ))}
          </Stack>
        </Section>
      )}
      <History status={status.data} hasServer={hasServer} />
      <Text size="sm" c="dimmed">
        Stored on this computer: {bytes(storage.used_bytes)} in {counted(storage.blocks, "block")}.
        Still free for backups: {bytes(storage.available_bytes)}.
      </Text>
      <AddFolderModal isOpen={isAdding} onClose={adding.close} />
    </Page>
  );
}
