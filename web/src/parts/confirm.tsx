// A dialog that asks before an action that a click cannot undo.

import { Button, Group, Modal, Stack } from "@mantine/core";
import type { ReactNode } from "react";

import { ErrorBox } from "./basics";

export function Confirm({
  title,
  yes,
  isOpen,
  isPending,
  error,
  onYes,
  onClose,
  isDangerous = false,
  children,
}: {
  title: string;
  yes: string;
  isOpen: boolean;
  isPending: boolean;
  error?: unknown;
  onYes: () => void;
  onClose: () => void;
  isDangerous?: boolean;
  children: ReactNode;
}) {
  return (
    <Modal opened={isOpen} onClose={onClose} title={title}>
      <Stack>
        {children}
        <ErrorBox error={error} />
        <Group justify="flex-end">
          <Button onClick={onClose} data-autofocus>
            Cancel
          </Button>
          <Button
            variant="filled"
            color={isDangerous ? "red.9" : undefined}
            onClick={onYes}
            loading={isPending}
          >
            {yes}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
