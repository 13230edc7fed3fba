"""What a step costs on devices that are not here."""
