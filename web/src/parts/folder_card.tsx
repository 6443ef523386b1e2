// A folder of this computer: its state, and the actions on it.

import { Anchor, Button, Card, Group, Loader, Stack, Text, Title } from "@mantine/core";
import { IconCheck, IconPlayerPause, IconPlayerPlay, IconUpload, IconX } from "@tabler/icons-react";
import type { ReactNode } from "react";
import { Link } from "react-router";

import type { Folder } from "../api/model";
import { useBackupNow, useConfirmFolder, usePauseFolder, useStatus } from "../api/queries";
import { bytes, count, counted, visibleName } from "../lib/format";
import { folderSafety } from "../lib/truth";
import { folderWord, stepWord } from "../lib/words";
import { Facts, FileName, State, ErrorBox, When } from "./basics";

/** The steps of a backup that "Backup now" started. */
export function BackupSteps({ backup }: { backup: ReturnType<typeof useBackupNow> }) {
  const status = useStatus();
  if (backup.isError) return <ErrorBox error={backup.error} onClose={() => backup.reset()} />;
  if (!backup.data) return null;
  // The confirmation comes later: it appears in the status of the folder.
  const isNotified = backup.data.steps.every((step) => step.ok || step.name === "trigger");
  const waiting = backup.data.folders.filter((one) => {
    const now = status.data?.folders.find((folder) => folder.id === one.folder_id);
    return (now?.backed_up_sequence ?? -1) < one.sequence;
  });
  return (
    <Stack gap={4} role="status">
      {backup.data.steps.map((step, index) => (
        <Group key={`${index} ${step.name}`} gap={8} wrap="nowrap" align="flex-start">
          {step.ok ? (
            <IconCheck size={18} className="ink-good" aria-label="done" />
          ) : (
            <IconX size={18} className="ink-bad" aria-label="failed" />
          )}
          <Text size="sm">
            <b>{stepWord(step.name)}.</b> {step.detail}
          </Text>
        </Group>
      ))}
      {isNotified && (
        <Group gap={8} wrap="nowrap" align="flex-start">
          {waiting.length === 0 ? (
            <IconCheck size={18} className="ink-good" aria-label="done" />
          ) : (
            <Loader size={18} aria-label="waiting" />
          )}
          <Text size="sm">
            <b>Confirmation.</b>{" "}
            {waiting.length === 0
              ? "The backup server has confirmed the snapshot."
              : "Waiting for the backup server to confirm the snapshot. The backup continues in the background."}
          </Text>
        </Group>
      )}
      <Button size="compact-xs" style={{ alignSelf: "flex-start" }} onClick={() => backup.reset()}>
        Hide
      </Button>
    </Stack>
  );
}

export function FolderCard({ folder, children }: { folder: Folder; children?: ReactNode }) {
  const backup = useBackupNow();
  const pause = usePauseFolder();
  const confirm = useConfirmFolder();
  const isPaused = folder.state === "paused";
  const safety = folderSafety(folder);
  const needsConfirmation = folder.state === "alarm" || Boolean(folder.held);
  return (
    <Card withBorder component="article" aria-label={visibleName(folder.name)}>
      <Stack gap="sm">
        <Group justify="space-between" align="flex-start">
          <div style={{ minWidth: 0 }}>
            <Title order={3} size="h4">
              <FileName name={folder.name} />
            </Title>
            <Text size="sm" c="dimmed">
              <FileName name={folder.path} />
            </Text>
          </div>
          <State word={folderWord(folder.state)} detail={folder.detail} />
        </Group>
        <Text
          size="sm"
          className={
            safety.kind === "safe" ? "ink-good" : safety.kind === "stopped" ? "ink-bad" : undefined
          }
        >
          {safety.kind === "safe" && (
            <>
              All changes up to <When at={safety.upTo} /> are on the backup server.
            </>
          )}
          {safety.kind === "pending" && `Not yet on the backup server: ${safety.why}.`}
          {safety.kind === "stopped" && <FileName name={safety.why} />}
          {safety.kind === "paused" && "Paused: changes are not backed up."}
        </Text>
        {(folder.state === "scanning" || folder.state === "publishing") && folder.detail && (
          <Text size="sm" c="dimmed">
            {folder.detail}
          </Text>
        )}
        {folder.held && (
          <div className="band band-bad">
            <Text size="sm">
              <FileName name={folder.held} />
            </Text>
          </div>
        )}
        <Facts
          facts={[
            ["Files", count(folder.files)],
            ["Size", bytes(folder.bytes)],
            ["Pending changes", count(folder.pending_changes)],
            ["Snapshot", folder.sequence == null ? "none yet" : `#${folder.sequence}`],
            [
              "Last confirmed",
              folder.backed_up_sequence == null ? (
                "none yet"
              ) : (
                <>
                  #{folder.backed_up_sequence}, <When at={folder.backed_up_at} />
                </>
              ),
            ],
            [
              "Unreadable",
              folder.error_count === 0 ? (
                "none"
              ) : (
                <Anchor
                  component={Link}
                  to={`/folders?errors=${encodeURIComponent(folder.id)}`}
                  className="ink-bad"
                >
                  {counted(folder.error_count, "file")}
                </Anchor>
              ),
            ],
          ]}
        />
        <Group gap="xs">
          <Button
            variant="filled"
            leftSection={<IconUpload size={18} />}
            loading={backup.isPending}
            disabled={isPaused}
            onClick={() => backup.mutate(folder.id)}
          >
            Backup now
          </Button>
          <Button
            leftSection={isPaused ? <IconPlayerPlay size={18} /> : <IconPlayerPause size={18} />}
            loading={pause.isPending}
            onClick={() => pause.mutate({ id: folder.id, pause: !isPaused })}
          >
            {isPaused ? "Resume" : "Pause"}
          </Button>
          {needsConfirmation && (
            <Button loading={confirm.isPending} onClick={() => confirm.mutate(folder.id)}>
              Accept this change
            </Button>
          )}
          {children}
        </Group>
        <ErrorBox error={pause.error ?? confirm.error} />
        <BackupSteps backup={backup} />
      </Stack>
    </Card>
  );
}
