// The dialogs of a folder: add, edit, remove.

import {
  Button,
  Checkbox,
  Group,
  List,
  Loader,
  Modal,
  Stack,
  Text,
  TextInput,
} from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useState } from "react";

import type { Folder } from "../api/model";
import { useAddFolder, useConfig, useEditFolder, useRemoveFolder } from "../api/queries";
import { lastName, leftOutText, visibleName } from "../lib/format";
import { folderEdit, type Limits, limitsEdit, patterns } from "../lib/patterns";
import { ErrorBox } from "./basics";
import { Confirm } from "./confirm";
import { DirectoryPicker } from "./directory_picker";
import { Excludes } from "./excludes";

function LimitFields({ value, onChange }: { value: Limits; onChange: (value: Limits) => void }) {
  return (
    <>
      <Checkbox
        label="Leave out other file systems"
        description="Disks mounted in the folder, and btrfs subvolumes. Network file systems are always left out."
        checked={value.one_file_system}
        onChange={(event) => onChange({ ...value, one_file_system: event.currentTarget.checked })}
      />
      <Checkbox
        label="Leave out caches"
        description="Directories that a program has marked with a CACHEDIR.TAG."
        checked={value.exclude_caches}
        onChange={(event) => onChange({ ...value, exclude_caches: event.currentTarget.checked })}
      />
    </>
  );
}

export function AddFolderForm({ onClose }: { onClose: () => void }) {
  const [path, setPath] = useState("");
  const [name, setName] = useState("");
  const [exclude, setExclude] = useState("");
  const [limits, setLimits] = useState<Limits>({ one_file_system: true, exclude_caches: false });
  const [hasMore, setHasMore] = useState(false);
  const add = useAddFolder();
  const clean = path.length > 1 ? path.replace(/\/+$/, "") : path;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        add.mutate(
          { path: clean, name: name.trim() || null, exclude: patterns(exclude), ...limits },
          {
            onSuccess: (folder) => {
              notifications.show({
                message: `${visibleName(folder.name)} is now watched and backed up.${leftOutText(folder)}`,
                color: folder.left_out?.length ? "yellow.8" : "green.8",
              });
              onClose();
            },
          },
        );
      }}
    >
      <Stack>
        <DirectoryPicker
          label="Folder to back up"
          description="A folder on this computer."
          value={path}
          onChange={setPath}
        />
        {hasMore ? (
          <>
            <TextInput
              label="Name"
              placeholder={visibleName(lastName(clean))}
              value={name}
              onChange={(event) => setName(event.currentTarget.value)}
            />
            <Excludes path={clean} value={exclude} onChange={setExclude} />
            <LimitFields value={limits} onChange={setLimits} />
          </>
        ) : (
          <Button
            variant="transparent"
            px={0}
            style={{ alignSelf: "flex-start" }}
            onClick={() => setHasMore(true)}
          >
            Options: name, exclusions …
          </Button>
        )}
        <ErrorBox error={add.error} />
        <Group justify="flex-end">
          <Button onClick={onClose}>Cancel</Button>
          <Button
            type="submit"
            variant="filled"
            loading={add.isPending}
            disabled={!clean.startsWith("/")}
          >
            Back up this folder
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

export function AddFolderModal({ isOpen, onClose }: { isOpen: boolean; onClose: () => void }) {
  return (
    <Modal opened={isOpen} onClose={onClose} title="Add a folder">
      {isOpen && <AddFolderForm onClose={onClose} />}
    </Modal>
  );
}

/** Returns the exclude patterns of a folder from the configuration. */
export function useExcludes(id: string): string[] | undefined {
  const config = useConfig();
  const folders = config.data?.sync?.folders;
  if (!Array.isArray(folders)) return undefined;
  const found: unknown = folders.find((one: { id?: unknown }) => one.id === id);
  if (found && typeof found === "object" && "exclude" in found && Array.isArray(found.exclude)) {
    return found.exclude.map(String);
  }
  return [];
}

function EditForm({
  folder,
  before,
  onClose,
}: {
  folder: Folder;
  before: string[];
  onClose: () => void;
}) {
  const [name, setName] = useState(folder.name);
  const [exclude, setExclude] = useState(before.join("\n"));
  const limitsBefore: Limits = {
    one_file_system: folder.one_file_system ?? true,
    exclude_caches: folder.exclude_caches ?? false,
  };
  const [limits, setLimits] = useState(limitsBefore);
  const edit = useEditFolder();
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        edit.mutate(
          {
            id: folder.id,
            ...folderEdit(folder.name, before, name, exclude),
            ...limitsEdit(limitsBefore, limits),
          },
          {
            onSuccess: () => {
              notifications.show({
                message: "Saved. Applies from the next snapshot on.",
                color: "green.8",
              });
              onClose();
            },
          },
        );
      }}
    >
      <Stack>
        <TextInput
          label="Name"
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
          required
        />
        <Excludes path={folder.path} value={exclude} onChange={setExclude} />
        <LimitFields value={limits} onChange={setLimits} />
        <Text size="sm" c="dimmed">
          Files that you exclude now stay in the existing snapshots.
        </Text>
        <ErrorBox error={edit.error} />
        <Group justify="flex-end">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="filled" loading={edit.isPending}>
            Apply
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

export function EditFolderModal({
  folder,
  isOpen,
  onClose,
}: {
  folder: Folder;
  isOpen: boolean;
  onClose: () => void;
}) {
  const config = useConfig();
  const before = useExcludes(folder.id);
  return (
    <Modal opened={isOpen} onClose={onClose} title={`Edit ${visibleName(folder.name)}`}>
      {isOpen && before && <EditForm folder={folder} before={before} onClose={onClose} />}
      {isOpen && !before && !config.isError && <Loader aria-label="Loading" />}
      {isOpen && !before && <ErrorBox error={config.error} onRetry={() => void config.refetch()} />}
    </Modal>
  );
}

export function RemoveFolder({
  folder,
  isOpen,
  onClose,
}: {
  folder: Folder;
  isOpen: boolean;
  onClose: () => void;
}) {
  const remove = useRemoveFolder();
  return (
    <Confirm
      title={`Stop backing up ${visibleName(folder.name)}?`}
      yes="Stop backing it up"
      isDangerous
      isOpen={isOpen}
      isPending={remove.isPending}
      error={remove.error}
      onYes={() => remove.mutate(folder.id, { onSuccess: onClose })}
      onClose={onClose}
    >
      <List>
        <List.Item>The folder on this computer is not changed.</List.Item>
        <List.Item>No new snapshots of it are made.</List.Item>
        <List.Item>
          The backup server keeps its snapshots until its retention rules delete them. The newest
          one is always kept. All of them can be restored.
        </List.Item>
        <List.Item>
          If you add the folder again later, it starts as a new folder. Data that the backup server
          already has is not sent again.
        </List.Item>
      </List>
    </Confirm>
  );
}
